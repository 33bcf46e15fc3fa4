"""How much of an address is random: what a number of launches shows, and what it cannot show. Pure rules."""

from __future__ import annotations

from collections import Counter
from math import log2, sqrt

from nstool.frozen import Frozen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_CONFIDENCE = 1.6448536269514722  # standard normal quantile of 95 %


class Spread(Frozen):
    """What several launches show of one address.

    samples: how many; distinct: different values; lowest, highest: addresses. varied: mask of the bits that were not
    the same in all. at_least: bits of entropy (Rényi's, of order 2, which is never above Shannon's) that it has with
    95 % confidence, by the number of equal pairs.
    """

    samples: int
    distinct: int
    lowest: int
    highest: int
    varied: int
    at_least: float

    @property
    def bits(self) -> int:
        """How many bits varied: a lower bound of those that can."""
        return self.varied.bit_count()

    @property
    def lowest_bit(self) -> int:
        """The lowest bit that varied, -1 if none did."""
        return (self.varied & -self.varied).bit_length() - 1

    @property
    def highest_bit(self) -> int:
        """The highest bit that varied, -1 if none did."""
        return self.varied.bit_length() - 1

    @property
    def span(self) -> float:
        """The bits that count the places from the lowest address to the highest: a lower bound of the whole span.

        A random number that is added to a base changes bits above it by carries; here those do not count.
        """
        return log2((self.highest - self.lowest >> max(self.lowest_bit, 0)) + 1)


def spread(addresses: Sequence[int]) -> Spread:
    """Return what the addresses of one region in several launches show. At least one is needed."""
    varied = 0
    for address in addresses:
        varied |= address ^ addresses[0]
    counts = Counter(addresses)
    equal = sum(number * (number - 1) // 2 for number in counts.values())
    shown = entropy_at_least(len(addresses), equal)
    return Spread(len(addresses), len(counts), min(addresses), max(addresses), varied, shown)


def entropy_at_least(samples: int, equal_pairs: int) -> float:
    """Return the bits of entropy that are shown, with 95 % confidence, by so many equal pairs among the samples.

    The number of equal pairs is near a Poisson distribution of mean pairs / 2^bits; the bound is that at which one
    sees so few, or fewer, in one of twenty cases. Bounds the Rényi entropy of order 2.
    """
    pairs = samples * (samples - 1) // 2
    if pairs == 0:
        return 0.0
    return max(0.0, log2(pairs / _mean_at_most(equal_pairs)))


def most_shown(samples: int) -> float:
    """Return the most that so many launches can show: no two addresses were equal."""
    return entropy_at_least(samples, 0)


def _mean_at_most(seen: int) -> float:
    # Half the 95 % quantile of chi square with 2 (seen + 1) degrees, by Wilson and Hilferty; exact to a few per mille.
    if seen == 0:
        return 2.995732273553991  # -ln 0.05
    degrees = 2 * (seen + 1)
    part = 2 / (9 * degrees)
    return degrees * (1 - part + _CONFIDENCE * sqrt(part)) ** 3 / 2


def tied(regions: Mapping[str, Sequence[int]]) -> tuple[tuple[str, str], ...]:
    """Return the pairs of regions that vary, but always by the same distance: who knows one address knows both."""
    names = [name for name, addresses in regions.items() if len(set(addresses)) > 1]
    found = []
    for at, one in enumerate(names):
        for other in names[at + 1 :]:
            if len({a - b for a, b in zip(regions[one], regions[other])}) == 1:
                found.append((one, other))
    return tuple(found)
