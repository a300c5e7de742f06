/* Meetings of a warp's lanes: waits, shuffles, ballots, tensor-core products, ldmatrix; and asynchronous copies.
 *
 * The lanes of a mask come to the same function; the last one computes what all of them get. Only a wait orders memory.
 */
#include <stdlib.h>
#include <string.h>

#include "tests/simulator/private.h"

static const char *const kind_name[MEET_KINDS] = {
    "__syncwarp", "shuffle", "ballot", "moec_mma_bf16", "moec_load_matrix_x4", "moec_load_matrix_x4_transposed"};

#define SITE __builtin_return_address(0)

/* ---------------------------------------------------------------- what the lanes get */

static Lane *lane_of(Worker *w, int warp, int lane) {
  return &w->lane[warp * WARP_LANES + lane];
}

static void meet_shuffle(Worker *w, int warp, unsigned mask, const void *site) {
  for (int i = 0; i < WARP_LANES; i++) {
    if (!(mask >> i & 1))
      continue;
    Lane *lane = lane_of(w, warp, i);
    if (!(mask >> lane->choice & 1))
      lane_fail(site, "lane %d of the warp reads lane %u, which is not in the mask 0x%08x", i, lane->choice, mask);
    lane->result = lane_of(w, warp, (int)lane->choice)->value;
  }
}

static void meet_ballot(Worker *w, int warp, unsigned mask) {
  uint64_t votes = 0;
  for (int i = 0; i < WARP_LANES; i++)
    if (mask >> i & 1)
      votes |= lane_of(w, warp, i)->value << i;
  for (int i = 0; i < WARP_LANES; i++)
    if (mask >> i & 1)
      lane_of(w, warp, i)->result = votes;
}

static float from_bf16(unsigned bits) {
  const uint32_t word = bits << 16;
  float x;
  memcpy(&x, &word, sizeof x);
  return x;
}

/* Fragments as codegen/device_cuda.h states them. */
static void meet_mma(Worker *w, int warp, const void *site) {
  float a[16][16], b[16][8];
  for (int lane = 0; lane < WARP_LANES; lane++) {
    access_check(lane_of(w, warp, lane), lane_of(w, warp, lane)->pointer[0], 16, true, site);
    access_check(lane_of(w, warp, lane), lane_of(w, warp, lane)->pointer[1], 16, false, site);
    access_check(lane_of(w, warp, lane), lane_of(w, warp, lane)->pointer[2], 8, false, site);
    const uint32_t *own_a = lane_of(w, warp, lane)->pointer[1], *own_b = lane_of(w, warp, lane)->pointer[2];
    const int group = lane / 4, place = lane % 4;
    for (int word = 0; word < 4; word++)
      for (int half = 0; half < 2; half++)
        a[group + word % 2 * 8][2 * place + word / 2 * 8 + half] = from_bf16(own_a[word] >> (16 * half) & 0xffff);
    for (int word = 0; word < 2; word++)
      for (int half = 0; half < 2; half++)
        b[2 * place + word * 8 + half][group] = from_bf16(own_b[word] >> (16 * half) & 0xffff);
  }
  for (int lane = 0; lane < WARP_LANES; lane++) {
    float *d = lane_of(w, warp, lane)->pointer[0];
    for (int i = 0; i < 4; i++) {
      const int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
      float sum = d[i];
      for (int k = 0; k < 16; k++)
        sum += a[row][k] * b[k][column];
      d[i] = sum;
    }
  }
}

/* Lane l gets of matrix i the elements 2 (l % 4) and the next of row l / 4; transposed, of column l / 4. */
static void meet_matrix(Worker *w, int warp, bool transposed, const void *site) {
  uint16_t matrix[4][8][8];
  for (int lane = 0; lane < WARP_LANES; lane++) {
    Lane *own = lane_of(w, warp, lane);
    access_check_aligned(own->pointer[1], 16, site);
    access_check(own, own->pointer[1], 16, false, site);
    memcpy(matrix[lane / 8][lane % 8], own->pointer[1], 16);
  }
  for (int lane = 0; lane < WARP_LANES; lane++) {
    uint32_t *r = lane_of(w, warp, lane)->pointer[0];
    const int group = lane / 4, place = lane % 4 * 2;
    for (int i = 0; i < 4; i++)
      r[i] = transposed ? (uint32_t)matrix[i][place][group] | (uint32_t)matrix[i][place + 1][group] << 16
                        : (uint32_t)matrix[i][group][place] | (uint32_t)matrix[i][group][place + 1] << 16;
  }
}

static void meet_complete(Worker *w, int warp, const Meeting *meeting, const void *site) {
  switch (meeting->kind) {
  case MEET_WAIT:
    w->warp[warp].waited_at = ++w->clock;
    break;
  case MEET_SHUFFLE:
    meet_shuffle(w, warp, meeting->mask, site);
    break;
  case MEET_BALLOT:
    meet_ballot(w, warp, meeting->mask);
    break;
  case MEET_MMA:
    meet_mma(w, warp, site);
    break;
  default:
    meet_matrix(w, warp, meeting->kind == MEET_MATRIX_TRANSPOSED, site);
  }
}

/* ---------------------------------------------------------------- coming together */

static void warp_meet(MeetKind kind, unsigned mask, int line, const void *site) {
  Worker *w = simulator_worker;
  Lane *lane = w->current;
  const int warp = lane->index / WARP_LANES, own = lane->index % WARP_LANES;
  if (!(mask >> own & 1))
    lane_fail(site, "%s: lane %d of the warp is not in its mask 0x%08x", kind_name[kind], own, mask);
  Meeting *meeting = &w->warp[warp].meeting[__builtin_ctz(mask)];
  if (!meeting->arrived)
    *meeting = (Meeting){.mask = mask, .kind = kind, .line = line};
  else if (meeting->mask != mask || meeting->kind != kind || meeting->line != line)
    lane_fail(site, "%s in line %d while other lanes of the warp are at %s in line %d", kind_name[kind], line,
              kind_name[meeting->kind], meeting->line);
  meeting->arrived |= 1u << own;
  if (meeting->arrived != mask) {
    lane->state = LANE_AT_WARP;
    lane->line = line;
    lane_suspend(w);
    return;
  }
  meet_complete(w, warp, meeting, site);
  meeting->arrived = 0;
  for (int i = 0; i < WARP_LANES; i++)
    if (mask >> i & 1)
      lane_of(w, warp, i)->state = LANE_READY;
}

uint64_t simulator_warp_meet(int kind, unsigned mask, uint64_t value, unsigned choice, int line);
uint64_t simulator_warp_meet(int kind, unsigned mask, uint64_t value, unsigned choice, int line) {
  Lane *lane = simulator_worker->current;
  lane->value = value;
  lane->choice = choice;
  warp_meet((MeetKind)kind, mask, line, SITE);
  return lane->result;
}

void simulator_mma_bf16(float *d, const uint32_t *a, const uint32_t *b);
void simulator_mma_bf16(float *d, const uint32_t *a, const uint32_t *b) {
  Lane *lane = simulator_worker->current;
  lane->pointer[0] = d;
  lane->pointer[1] = (void *)(uintptr_t)a;
  lane->pointer[2] = (void *)(uintptr_t)b;
  warp_meet(MEET_MMA, 0xffffffffu, 0, SITE);
}

void simulator_load_matrix(uint32_t *r, const void *row, int transposed);
void simulator_load_matrix(uint32_t *r, const void *row, int transposed) {
  Lane *lane = simulator_worker->current;
  lane->pointer[0] = r;
  lane->pointer[1] = (void *)(uintptr_t)row;
  warp_meet(transposed ? MEET_MATRIX_TRANSPOSED : MEET_MATRIX, 0xffffffffu, 0, SITE);
}

/* ---------------------------------------------------------------- asynchronous copies */

void simulator_copy_async(void *shared, const void *global, int valid);
void simulator_copy_async(void *shared, const void *global, int valid) {
  Lane *lane = simulator_worker->current;
  access_check_aligned(shared, 16, SITE);
  access_check_aligned(global, 16, SITE);
  if (valid)
    access_check(lane, global, 16, false, SITE);
  access_depart(lane, shared, 16, SITE);
  if (lane->copy_count == lane->copy_capacity) {
    lane->copy_capacity = lane->copy_capacity ? 2 * lane->copy_capacity : 64;
    lane->copies = realloc(lane->copies, (size_t)lane->copy_capacity * sizeof *lane->copies);
  }
  lane->copies[lane->copy_count++] = (AsyncCopy){shared, valid ? global : NULL, lane->copy_group};
}

void simulator_copy_commit(void);
void simulator_copy_commit(void) {
  simulator_worker->current->copy_group++;
}

/* The copies of all but the last `pending` groups land now, which is as late as the machine may let them. */
void simulator_copy_wait(int pending);
void simulator_copy_wait(int pending) {
  Lane *lane = simulator_worker->current;
  int kept = 0;
  for (int i = 0; i < lane->copy_count; i++) {
    AsyncCopy copy = lane->copies[i];
    if (copy.group >= lane->copy_group - pending) {
      lane->copies[kept++] = copy;
      continue;
    }
    if (copy.from)
      memcpy(copy.to, copy.from, 16);
    else
      memset(copy.to, 0, 16);
    access_land(lane, copy.to, 16);
  }
  lane->copy_count = kept;
}
