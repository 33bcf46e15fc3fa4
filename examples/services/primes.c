/* Count the primes below a number by the sieve of Eratosthenes. */
#include <stdio.h>
#include <stdlib.h>

int main(int count, char **words)
{
	size_t limit = count > 1 ? strtoul(words[1], NULL, 10) : 100;
	size_t found = 0;
	char *composite = calloc(limit + 1, 1);

	if (!composite) {
		perror("primes");
		return 1;
	}
	for (size_t number = 2; number < limit; number++) {
		if (composite[number])
			continue;
		found++;
		for (size_t multiple = number * number; multiple < limit; multiple += number)
			composite[multiple] = 1;
	}
	printf("%zu primes below %zu\n", found, limit);
	free(composite);
	return 0;
}
