/* tests/simulator/simulator_kernel.h for units of sm_90a that use codegen/cuda/hopper.cu: a model of Hopper's barriers,
 * box copies and warpgroup products on threads of the host.
 *
 * It checks what a kernel does with them: what is copied where, that nothing is read before it came or overwritten
 * before it was read, that nobody waits for ever. Copies are done by a thread of their own some time after they were
 * asked for; products are done as late as hopper_products_wait allows. What a bit of a descriptor or of a tensor map
 * means to the machine is modelled as the PTX manual states it; whether that is so only a GPU can say. What the
 * simulator of coroutines sees beside (accesses outside of allocations, missing barriers) is not looked for here.
 *
 * A launch runs twice, with two patterns in all bytes that nobody has written: a byte that keeps its pattern both times
 * was not written, all others must be the same. */
#include "tests/simulator/simulator_kernel.h"

#include <chrono>
#include <condition_variable>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <dlfcn.h>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <pthread.h>
#include <string>
#include <thread>
#include <unistd.h>
#include <vector>

struct SimulatorUnit {
  void *library;
};

namespace {

constexpr int WARP = 32, WARPGROUP = 128, MOST_THREADS = 1024;

std::string message;

bool wrong(const char *format, ...) {
  char text[4096];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  message = text;
  return false;
}

/* A mistake of the kernel from which its threads cannot come back. */
[[noreturn]] void stop(const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vprintf(format, arguments);
  va_end(arguments);
  printf("\n");
  fflush(stdout);
  _exit(1);
}

struct Index3 {
  unsigned x, y, z;
};
thread_local Index3 thread_index, block_index;
Index3 block_size, grid_size;

/* ---------------------------------------------------------------- barriers of all kinds */

struct Meeting { /* a barrier of a fixed number of threads */
  pthread_barrier_t barrier;
  explicit Meeting(unsigned threads) {
    pthread_barrier_init(&barrier, nullptr, threads);
  }
  ~Meeting() {
    pthread_barrier_destroy(&barrier);
  }
  void meet() {
    pthread_barrier_wait(&barrier);
  }
};

struct Block { /* what the running block has beside its shared memory */
  Meeting all, consumers;
  std::vector<std::unique_ptr<Meeting>> warp;
  std::vector<unsigned long long> value; /* by thread: what it offers in a shuffle */
  Block(unsigned threads, unsigned meeting) : all(threads), consumers(meeting), value(threads) {
    for (unsigned i = 0; i < threads / WARP; i++)
      warp.push_back(std::make_unique<Meeting>(WARP));
  }
};
std::unique_ptr<Block> block;

std::mutex lock; /* of all mbarriers */
std::condition_variable turned;
uint64_t events; /* phases that have turned over */

struct Barrier { /* in the 8 bytes of an mbarrier */
  int32_t bytes;
  uint16_t missing;
  uint8_t arrivals, phase;
};
static_assert(sizeof(Barrier) == 8, "the size of an mbarrier");

void settle(Barrier *b) {
  if (b->missing || b->bytes)
    return;
  b->phase ^= 1;
  b->missing = b->arrivals;
  events++;
  turned.notify_all();
}

/* ---------------------------------------------------------------- memory */

struct Allocation {
  std::vector<unsigned char> bytes, written;
  unsigned char *at; /* a multiple of 256, within bytes */
  size_t size;
};
std::map<const unsigned char *, Allocation> allocations;

Allocation *find(const void *memory) {
  auto next = allocations.upper_bound((const unsigned char *)memory);
  if (next == allocations.begin())
    return nullptr;
  Allocation &a = std::prev(next)->second;
  return (const unsigned char *)memory < a.at + a.size + !a.size ? &a : nullptr;
}

/* ---------------------------------------------------------------- box copies */

struct Map { /* in the 128 bytes of a tensor map */
  uint64_t mark;
  const char *base;
  uint64_t row_bytes, layer_bytes;
  uint32_t columns, rows, layers, box_rows;
};
constexpr uint64_t MAP_MARK = 0x6d6f6563206d6170u;
constexpr int BOX_COLUMNS = 64, ROW_BYTES = 128;

std::mutex queue_lock;
std::condition_variable &queue_filled = *new std::condition_variable; /* waited for until the process ends */
std::deque<std::function<void()>> queue;

/* The address of a byte in shared memory under the 128-byte swizzle: pieces of 16 bytes exchanged by the row. */
uint64_t swizzled(uint64_t address) {
  return address ^ (address >> 7 & 7) << 4;
}

} // namespace

extern "C" {
alignas(1024) char dynamic_memory[16 + 232448];
extern char dynamic[] __attribute__((alias("dynamic_memory")));
}

namespace {

/* Shared memory by its address; `dynamic` has address 16. */
char *shared_at(uint64_t address) {
  return dynamic_memory + address - 16;
}

void copy_box(const Map &map, uint64_t to, int column, int row, int layer, Barrier *barrier) {
  for (uint32_t r = 0; r < map.box_rows; r++)
    for (int c = 0; c < BOX_COLUMNS; c++) {
      const int64_t from_row = (int64_t)row + r, from_column = (int64_t)column + c;
      uint16_t value = 0;
      if (from_row < map.rows && from_column < map.columns && (uint32_t)layer < map.layers)
        memcpy(&value, map.base + layer * map.layer_bytes + from_row * map.row_bytes + from_column * 2, 2);
      memcpy(shared_at(swizzled(to + r * ROW_BYTES + c * 2)), &value, 2);
    }
  std::lock_guard<std::mutex> guard(lock);
  barrier->bytes -= map.box_rows * ROW_BYTES;
  settle(barrier);
}

void copy_for_ever() {
  for (;;) {
    std::function<void()> copy;
    {
      std::unique_lock<std::mutex> guard(queue_lock);
      queue_filled.wait(guard, [] { return !queue.empty(); });
      copy = std::move(queue.front());
      queue.pop_front();
    }
    copy();
  }
}

/* ---------------------------------------------------------------- products */

struct Multiply {
  float *sum;
  uint64_t a, b;
  bool a_crosses, b_crosses, add;
};
thread_local std::vector<Multiply> begun;                 /* since the last commit */
thread_local std::deque<std::vector<Multiply>> committed; /* groups that are open */

/* Element x along the extent and k along the depth of an operand (PTX ISA, "Matrix Descriptor Format"). */
float operand_at(uint64_t descriptor, bool crosses, int x, int k) {
  const uint64_t start = (descriptor & 0x3fff) << 4, leading = (descriptor >> 16 & 0x3fff) << 4,
                 stride = (descriptor >> 32 & 0x3fff) << 4;
  if (descriptor >> 62 != 1)
    stop("an operand is not in the 128-byte swizzle");
  if (!crosses && leading != 16)
    stop("the leading distance, which has no meaning where the depth follows the rows, is not 16");
  const uint64_t at = crosses ? start + x / 64 * leading + k / 8 * stride + k % 8 * ROW_BYTES + x % 64 * 2
                              : start + x / 8 * stride + x % 8 * ROW_BYTES + k * 2;
  uint16_t half;
  memcpy(&half, shared_at(swizzled(at)), 2);
  const uint32_t bits = (uint32_t)half << 16;
  float value;
  memcpy(&value, &bits, 4);
  return value;
}

/* This thread's part of 64 x 256 x 16. */
void multiply(const Multiply &m) {
  const int lane = thread_index.x % WARP, warp = thread_index.x % WARPGROUP / WARP;
  for (int half = 0; half < 2; half++) {
    const int row = warp * 16 + half * 8 + lane / 4;
    for (int i = 0; i < 64; i++) {
      const int column = i / 2 * 8 + lane % 4 * 2 + i % 2;
      float &sum = m.sum[i / 2 * 4 + half * 2 + i % 2];
      if (!m.add)
        sum = 0;
      for (int k = 0; k < 16; k++)
        sum += operand_at(m.a, m.a_crosses, row, k) * operand_at(m.b, m.b_crosses, column, k);
    }
  }
}

} // namespace

/* ---------------------------------------------------------------- what units call */

extern "C" {

Index3 simulator_thread_index() {
  return thread_index;
}
Index3 simulator_block_index() {
  return block_index;
}
Index3 simulator_block_size() {
  return block_size;
}
Index3 simulator_grid_size() {
  return grid_size;
}
void simulator_block_wait(int) {
  block->all.meet();
}
/* Waits and shuffles of whole warps. */
unsigned long long simulator_warp_meet(int kind, unsigned mask, unsigned long long value, unsigned choice, int line) {
  if (kind > 1 || mask != 0xffffffffu)
    stop("line %d: ballots and parts of warps are not modelled", line);
  const unsigned warp = thread_index.x / WARP;
  block->value[thread_index.x] = value;
  block->warp[warp]->meet();
  const unsigned long long result = block->value[warp * WARP + choice % WARP];
  block->warp[warp]->meet();
  return result;
}
void simulator_mma_bf16(float *, const unsigned *, const unsigned *) {
  stop("moec_mma_bf16 is not modelled");
}
void simulator_load_matrix(unsigned *, const void *, int) {
  stop("moec_load_matrix_x4 is not modelled");
}
void simulator_copy_async(void *, const void *, int) {
  stop("moec_copy_async_16 is not modelled");
}
void simulator_copy_commit() {}
void simulator_copy_wait(int) {}

void hopper_machine_barrier(void *barrier, unsigned arrivals) {
  *(Barrier *)barrier = {0, (uint16_t)arrivals, (uint8_t)arrivals, 0};
}

void hopper_machine_arrive(void *barrier, unsigned bytes) {
  std::lock_guard<std::mutex> guard(lock);
  Barrier *b = (Barrier *)barrier;
  if (!b->missing)
    stop("thread %u arrives at a barrier that waits for no more", thread_index.x);
  b->bytes += (int32_t)bytes;
  b->missing--;
  settle(b);
}

/* Nobody comes when nothing has happened anywhere for some time, which is counted in naps: the process may be stopped
 * for longer than any of them. */
void hopper_machine_wait(void *barrier, unsigned phase) {
  constexpr int NAPS = 40;
  std::unique_lock<std::mutex> guard(lock);
  const Barrier *b = (const Barrier *)barrier;
  uint64_t seen = events;
  for (int idle = 0; b->phase == phase; idle = events == seen ? idle + 1 : 0, seen = events) {
    if (idle == NAPS)
      stop("thread %u waits for ever", thread_index.x);
    turned.wait_for(guard, std::chrono::milliseconds(250));
  }
}

void hopper_machine_meet(unsigned threads) {
  if (threads != block_size.x - WARPGROUP)
    stop("a barrier of %u threads is not modelled", threads);
  block->consumers.meet();
}

void hopper_machine_map(void *map, const void *base, unsigned columns, unsigned rows, unsigned layers,
                        unsigned long long row_bytes, unsigned long long layer_bytes, unsigned box_rows) {
  if ((uintptr_t)map % 128 || (uintptr_t)base % 16 || row_bytes % 16 || layer_bytes % 16 || box_rows > 256)
    stop("a tensor map is not aligned, or its boxes have more than 256 rows");
  if (thread_index.x == 0)
    *(Map *)map = {MAP_MARK, (const char *)base, row_bytes, layer_bytes, columns, rows, layers, box_rows};
}

void hopper_machine_copy(void *shared, const void *map, int column, int row, int layer, void *barrier) {
  const Map m = *(const Map *)map;
  const uint64_t to = (uint64_t)((char *)shared - dynamic) + 16;
  if (m.mark != MAP_MARK || to % 1024 || column < 0 || row < 0 || layer < 0)
    stop("a copy has no map, goes to no multiple of 1024, or begins before its tensor");
  std::lock_guard<std::mutex> guard(queue_lock);
  queue.push_back([=] { copy_box(m, to, column, row, layer, (Barrier *)barrier); });
  queue_filled.notify_all();
}

void hopper_machine_multiply(float *sum, unsigned long long a, unsigned long long b, int a_crosses, int b_crosses,
                             int add) {
  begun.push_back({sum, a, b, a_crosses != 0, b_crosses != 0, add != 0});
}

void hopper_machine_commit() {
  committed.push_back(std::move(begun));
  begun.clear();
}

/* The lanes of a warp go on together. */
void hopper_machine_products_wait(unsigned pending) {
  for (; committed.size() > pending; committed.pop_front())
    for (const Multiply &m : committed.front())
      multiply(m);
  block->warp[thread_index.x / WARP]->meet();
}

/* ---------------------------------------------------------------- units */

SimulatorUnit *simulator_compile(const char *text) {
  static int number;
  const std::string name = "hopper_unit_" + std::to_string(getpid()) + "_" + std::to_string(number++);
  std::string source = text;
  const std::string extern_shared = "extern __shared__";
  for (size_t at; (at = source.find(extern_shared)) != std::string::npos;)
    source.replace(at, extern_shared.size(), "extern");
  FILE *file = fopen((name + ".cc").c_str(), "w");
  if (!file || fputs(source.c_str(), file) < 0 ||
      fputs("\n#define ENTRY(name) SIMULATOR_ENTRY(name)\nENTRY(KERNEL)\n", file) < 0 || fclose(file)) {
    wrong("%s.cc cannot be written", name.c_str());
    return nullptr;
  }
  const std::string command =
      "g++ -x c++ -std=gnu++17 -O1 -w -fPIC -shared -DMOEC_SIMULATOR -include " SIMULATOR_SOURCES
      "/simulator.h -include " SIMULATOR_SOURCES "/hopper_threads.h " +
      name + ".cc -o ./" + name + ".so";
  const bool compiled = system(command.c_str()) == 0;
  void *library = compiled ? dlopen(("./" + name + ".so").c_str(), RTLD_NOW) : nullptr;
  if (!library)
    wrong("%s", compiled ? dlerror() : "the compiler refuses the unit");
  remove((name + ".cc").c_str());
  remove((name + ".so").c_str());
  return library ? new SimulatorUnit{library} : nullptr;
}

bool simulator_has_entry(const SimulatorUnit *unit, const char *entry) {
  return dlsym(unit->library, (std::string("simulator_enter_") + entry).c_str()) != nullptr;
}

bool simulator_is_simulated(void) {
  return true;
}

bool simulator_runs(const char *arch) {
  return strcmp(arch, "sm_90a") == 0;
}

/* ---------------------------------------------------------------- memory */

void *simulator_alloc(size_t bytes) {
  Allocation a;
  a.bytes.assign(bytes + 512, 0xff);
  a.written.assign(bytes, 0);
  a.at = a.bytes.data() + (256 - (uintptr_t)a.bytes.data() % 256) % 256;
  a.size = bytes;
  unsigned char *at = a.at;
  allocations.emplace(at, std::move(a));
  return at;
}

void *simulator_copy(const void *data, size_t bytes) {
  void *memory = simulator_alloc(bytes);
  memcpy(memory, data, bytes);
  simulator_mark_written(memory, bytes);
  return memory;
}

void simulator_free(void *memory) {
  allocations.erase((unsigned char *)memory);
}

void simulator_mark_written(void *memory, size_t bytes) {
  Allocation *a = find(memory);
  if (a)
    memset(a->written.data() + ((unsigned char *)memory - a->at), 1, bytes);
}

int64_t simulator_unwritten(const void *memory, size_t from, size_t bytes) {
  const Allocation *a = find(memory);
  const unsigned char *written = a ? a->written.data() + ((const unsigned char *)memory - a->at) + from : nullptr;
  const void *hole = a ? memchr(written, 0, bytes) : nullptr;
  return hole ? (int64_t)from + ((const unsigned char *)hole - written) : -1;
}

bool simulator_is_memory(const void *memory, size_t bytes) {
  const Allocation *a = find(memory);
  return a && (const unsigned char *)memory + bytes <= a->at + a->size;
}

/* ---------------------------------------------------------------- launches */

static void run_blocks(const SimulatorLaunch *launch, void (*entry)(void **), const uint64_t *parameters, int count) {
  grid_size = {(unsigned)(launch->blocks[0] ? launch->blocks[0] : 1), 1, 1};
  block_size = {(unsigned)launch->threads, 1, 1};
  for (unsigned b = 0; b < grid_size.x; b++) {
    block = std::make_unique<Block>(block_size.x, block_size.x - WARPGROUP);
    std::vector<std::thread> threads;
    for (unsigned t = 0; t < block_size.x; t++)
      threads.emplace_back([=] {
        thread_index = {t, 0, 0};
        block_index = {b, 0, 0};
        std::vector<uint64_t> value(parameters, parameters + count);
        std::vector<void *> pointer;
        for (uint64_t &v : value)
          pointer.push_back(&v);
        entry(pointer.data());
      });
    for (std::thread &thread : threads)
      thread.join();
  }
}

bool simulator_run(const SimulatorLaunch *launch, const uint64_t *parameters, int count) {
  static std::thread *engine;
  if (!engine)
    engine = new std::thread(copy_for_ever);
  const std::string name = std::string("simulator_enter_") + launch->entry;
  void (*entry)(void **) = (void (*)(void **))dlsym(launch->unit->library, name.c_str());
  if (!entry || launch->threads <= WARPGROUP || launch->threads > MOST_THREADS || launch->threads % WARPGROUP)
    return wrong("%s: no such entry, or no whole number of warpgroups", launch->entry);
  constexpr unsigned char PATTERNS[2] = {0xff, 0x55};
  std::map<const unsigned char *, std::vector<unsigned char>> before, first;
  for (auto &[at, a] : allocations)
    before[at].assign(at, at + a.size);
  for (unsigned char pattern : PATTERNS) {
    for (auto &[at, a] : allocations)
      for (size_t i = 0; i < a.size; i++)
        a.at[i] = a.written[i] ? before[at][i] : pattern;
    run_blocks(launch, entry, parameters, count);
    if (pattern == PATTERNS[0])
      for (auto &[at, a] : allocations)
        first[at].assign(at, at + a.size);
  }
  bool same = true;
  for (auto &[at, a] : allocations)
    for (size_t i = 0; i < a.size; i++) {
      const bool kept = !a.written[i] && first[at][i] == PATTERNS[0] && a.at[i] == PATTERNS[1];
      if (!kept && first[at][i] != a.at[i] && same)
        same = wrong("%s: byte %zu of %zu differs between two runs", launch->entry, i, a.size);
      a.written[i] |= !kept;
      a.at[i] = first[at][i];
    }
  return same;
}

bool simulator_run_once(const SimulatorLaunch *launch, const uint64_t *parameters, int count, SimulatorOrder,
                        uint64_t) {
  return simulator_run(launch, parameters, count);
}

const char *simulator_error(void) {
  return message.c_str();
}

} /* extern "C" */
