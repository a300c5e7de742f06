"""The order in which a trainer reads its data (runtime/data.h), written a second time: which tokens sequence number
`index` of a run begins at. A peer that reads the same windows in the same order has the same batches. Pure Python;
data_order_test.py holds it against the runtime's."""
MASK = 2**64 - 1
GOLDEN = 0x9E3779B97F4A7C15  # splitmix64's increment


def mix(x):
    """splitmix64's finaliser."""
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & MASK
    x = (x ^ x >> 27) * 0x94D049BB133111EB & MASK
    return x ^ x >> 31


def permute(index, count, key):
    """A permutation of 0 .. count-1: six Feistel rounds over the next power of four, repeated until below count."""
    half = 1
    while half < 31 and 1 << 2 * half < count:
        half += 1
    mask = (1 << half) - 1
    while True:
        left, right = index >> half, index & mask
        for turn in range(6):
            left, right = right, left ^ (mix(key + (turn << 56) + right & MASK) & mask)
        index = left << half | right
        if index < count:
            return index


class DataOrder:
    def __init__(self, tokens, sequence, seed):
        """tokens: how many the file has."""
        self.seed, self.sequence = seed, sequence
        self.windows = max(1, tokens // sequence - 1)
        self.slack = min(tokens - 1 - self.windows * sequence, sequence - 1)

    def key(self, epoch, use):
        return mix(mix(self.seed + GOLDEN & MASK) + epoch * GOLDEN + use & MASK)

    def start(self, index):
        """The first token of sequence number `index` of the run; its targets stand one token further on."""
        epoch, within = divmod(index, self.windows)
        return self.key(epoch, 1) % (self.slack + 1) + permute(within, self.windows, self.key(epoch, 2)) * self.sequence
