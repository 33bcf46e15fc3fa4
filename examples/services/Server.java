import com.sun.net.httpserver.HttpServer;
import java.net.InetSocketAddress;
import java.util.concurrent.Executors;

/** Answers with the largest heap and the processors that Java has found. */
public class Server {
    public static void main(String[] words) throws Exception {
        var server = HttpServer.create(new InetSocketAddress(8080), 0);
        server.setExecutor(Executors.newCachedThreadPool());
        server.createContext("/", exchange -> {
            var runtime = Runtime.getRuntime();
            var text = "heap " + (runtime.maxMemory() >> 20) + " MiB, processors " + runtime.availableProcessors() + "\n";
            exchange.sendResponseHeaders(200, text.length());
            try (var body = exchange.getResponseBody()) {
                body.write(text.getBytes());
            }
        });
        server.start();
    }
}
