// Answers with a key that is made from the path, in the threads of libuv, so that others are served meanwhile.
const crypto = require("node:crypto");
const http = require("node:http");

const server = http.createServer((request, response) => {
  crypto.pbkdf2(request.url, "salt", 1000, 32, "sha256", (error, key) => {
    response.statusCode = error ? 500 : 200;
    response.end(error ? error.message : key.toString("hex") + "\n");
  });
});
server.listen(8080);
