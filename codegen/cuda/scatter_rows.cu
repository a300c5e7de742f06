//@use vector
/* c[v] = the sum of the rows i of x with ids[i] = v, in order of i; rows that no id names are 0.
 *
 * Macros: those of vector.cu; N ids, ROWS of c, COLUMNS (a multiple of VECTOR), LD_X elements between rows of x; BITS of
 * a digit (at most 9); IDS of a part, a multiple of 256; PARTS of them cover N.
 * Launches: the ids are sorted, stably, by their digits, the lowest first: for every digit KERNEL_count, scan_counts over
 * (2^BITS, PARTS) and KERNEL_place, the outer two with PARTS blocks of 256 threads. Then KERNEL_first, blocks
 * ceil((ROWS + 1) / 256) of 256 threads: where every row's ids begin. Then KERNEL_sum, a warp for 32 VECTOR columns of a
 * row, 8 warps a block. An id outside of 0 .. ROWS-1 is reported (wrong[PARTS][2]: the first of a part and its place) and
 * counts as ROWS, a row that c does not have.
 *
 * Ranks within 32 ids come from ballots, those of warps and parts from sums, so no order depends on timing. Bytes for
 * 65,536 ids, 50,304 rows of 1024 f32 and x in bf16: 206 MB written, 134 MB read, 87 microseconds of an H200's memory;
 * sorting moves 2 MB in 6 launches of a few microseconds. A row with n ids is summed by 1024 / (32 VECTOR) warps one
 * after the other: 2 n KB through one multiprocessor; the 3000 places of the most frequent word take as long as the rest
 * of the table and begin first, being low ids in vocabularies sorted by frequency. */
enum { THREADS = 256, WARPS = THREADS / 32, BINS = 1 << BITS, NONE = 0x7fffffff };

MOEC_INLINE bool is_row(int32_t id) {
  return id >= 0 && id < ROWS;
}

MOEC_INLINE int32_t key_of_id(int32_t id) {
  return is_row(id) ? id : ROWS;
}

/* The lanes whose digit is this lane's. */
MOEC_INLINE uint32_t equal_digits(int32_t digit) {
  uint32_t equal = 0xffffffffu;
#pragma unroll
  for (int bit = 0; bit < BITS; bit++) {
    const uint32_t set = __ballot_sync(0xffffffffu, digit >> bit & 1);
    equal &= digit >> bit & 1 ? set : ~set;
  }
  return equal;
}

/* Counts the digits of a tile by warp; returns how many lanes below this one have its digit. */
MOEC_INLINE int32_t count_tile(int32_t (*found)[BINS], int32_t digit, bool live) {
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  for (int bin = lane; bin < BINS; bin += 32)
    found[warp][bin] = 0;
  __syncwarp();
  const uint32_t equal = equal_digits(digit) & __ballot_sync(0xffffffffu, live);
  const int32_t before = __popc(equal & ((1u << lane) - 1u));
  if (live && before == 0)
    found[warp][digit] = __popc(equal);
  return before;
}

/* `wrong` is null for digits but the first. */
extern "C" __global__ void __launch_bounds__(THREADS)
    KERNEL_FUNCTION(count)(const int32_t *ids, int32_t *count, int32_t *wrong, int64_t shift) {
  __shared__ int32_t found[WARPS][BINS];
  __shared__ int32_t total[BINS];
  int wrong_place = NONE, wrong_id = -1;
  for (int bin = threadIdx.x; bin < BINS; bin += THREADS)
    total[bin] = 0;
  for (int tile = 0; tile < IDS; tile += THREADS) {
    const int i = blockIdx.x * IDS + tile + threadIdx.x;
    const int32_t id = i < N ? ids[i] : 0;
    count_tile(found, key_of_id(id) >> shift & (BINS - 1), i < N);
    if (!is_row(id) && wrong_place == NONE) {
      wrong_place = i;
      wrong_id = id;
    }
    __syncthreads();
    for (int bin = threadIdx.x; bin < BINS; bin += THREADS)
      for (int w = 0; w < WARPS; w++)
        total[bin] += found[w][bin];
    __syncthreads();
  }
  for (int bin = threadIdx.x; bin < BINS; bin += THREADS)
    count[bin * PARTS + blockIdx.x] = total[bin];
  if (!wrong)
    return;
  const int first_wrong = moec_team_min<THREADS>(wrong_place);
  if (wrong_place == first_wrong && (first_wrong != NONE || threadIdx.x == 0)) {
    wrong[2 * blockIdx.x] = first_wrong != NONE ? first_wrong : -1;
    wrong[2 * blockIdx.x + 1] = wrong_id;
  }
}

/* `from_place` is null for the first digit: id i then stands at place i. */
extern "C" __global__ void __launch_bounds__(THREADS)
    KERNEL_FUNCTION(place)(const int32_t *from_id, const int32_t *from_place, const int32_t *first, int32_t *to_id,
                           int32_t *to_place, int64_t shift) {
  __shared__ int32_t found[WARPS][BINS]; /* of the tile; then the first place of every warp */
  __shared__ int32_t next[BINS];         /* the first place of the tile */
  const int warp = threadIdx.x >> 5;
  for (int bin = threadIdx.x; bin < BINS; bin += THREADS)
    next[bin] = first[bin * PARTS + blockIdx.x];
  for (int tile = 0; tile < IDS; tile += THREADS) {
    const int i = blockIdx.x * IDS + tile + threadIdx.x;
    const int32_t key = key_of_id(i < N ? from_id[i] : 0), digit = key >> shift & (BINS - 1);
    const int32_t before = count_tile(found, digit, i < N);
    __syncthreads();
    for (int bin = threadIdx.x; bin < BINS; bin += THREADS) {
      int32_t place = next[bin];
      for (int w = 0; w < WARPS; w++) {
        const int32_t own = found[w][bin];
        found[w][bin] = place;
        place += own;
      }
      next[bin] = place;
    }
    __syncthreads();
    if (i < N) {
      const int32_t place = found[warp][digit] + before;
      to_id[place] = key;
      to_place[place] = from_place ? from_place[i] : i;
    }
    __syncthreads(); /* the next tile counts in `found` */
  }
}

/* first[v]: how many of the sorted ids are below v. */
extern "C" __global__ void __launch_bounds__(THREADS) KERNEL_FUNCTION(first)(const int32_t *id, int32_t *first) {
  const int row = blockIdx.x * THREADS + threadIdx.x;
  if (row > ROWS)
    return;
  int32_t low = 0, high = N;
  while (low < high) {
    const int32_t middle = (low + high) >> 1;
    if (id[middle] < row)
      low = middle + 1;
    else
      high = middle;
  }
  first[row] = low;
}

extern "C" __global__ void __launch_bounds__(THREADS)
    KERNEL_FUNCTION(sum)(const moec_x *x, const int32_t *place, const int32_t *first, moec_c *c) {
  constexpr int SLICES = (COLUMNS + 32 * VECTOR - 1) / (32 * VECTOR);
  const int64_t task = (int64_t)blockIdx.x * WARPS + (threadIdx.x >> 5);
  const int row = (int)(task / SLICES), column = ((int)(task % SLICES) * 32 + (threadIdx.x & 31)) * VECTOR;
  if (row >= ROWS || column >= COLUMNS)
    return;
  const int32_t end = first[row + 1];
  Sum sum = {};
#pragma unroll 4
  for (int32_t i = first[row]; i < end; i++) {
    const Vector<moec_x> own = vector_read(x + (int64_t)place[i] * LD_X + column);
    sum_add(&sum, &own);
  }
  sum_write(c + (int64_t)row * COLUMNS + column, &sum);
}
