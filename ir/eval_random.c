/* Random draws of the interpreter: its own Philox 4x32-10 and the op uniform.
 *
 * Holds: a draw is a pure function of (seed, element, tag, step), so it does not depend on order, packing or ranks.
 */
#include "ir/eval_private.h"

enum { PHILOX_ROUNDS = 10 };

void eval_philox(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]) {
  uint32_t c[4] = {counter[0], counter[1], counter[2], counter[3]};
  uint32_t k[2] = {key[0], key[1]};
  for (int round = 0; round < PHILOX_ROUNDS; round++) {
    uint64_t first = (uint64_t)0xD2511F53u * c[0];
    uint64_t second = (uint64_t)0xCD9E8D57u * c[2];
    uint32_t next[4] = {(uint32_t)(second >> 32) ^ c[1] ^ k[0], (uint32_t)second, (uint32_t)(first >> 32) ^ c[3] ^ k[1],
                        (uint32_t)first};
    for (int word = 0; word < 4; word++)
      c[word] = next[word];
    k[0] += 0x9E3779B9u;
    k[1] += 0xBB67AE85u;
  }
  for (int word = 0; word < 4; word++)
    out[word] = c[word];
}

double eval_uniform_draw(uint64_t seed, uint64_t element, uint32_t tag, uint32_t step) {
  uint32_t counter[4] = {(uint32_t)element, (uint32_t)(element >> 32), tag, step};
  uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
  uint32_t out[4];
  eval_philox(counter, key, out);
  return ((double)(out[0] >> 9) + 0.5) / 8388608.0;
}

void eval_uniform(Evaluation *run, const Inst *inst) {
  const Tensor *index = eval_input(run, inst, 0), *step = eval_input(run, inst, 1);
  Tensor *out = eval_output(run, inst, 0);
  uint32_t tag = (uint32_t)inst_int(inst, ATTRIBUTE_tag, 0);
  int64_t columns = tensor_columns(out);
  for (int64_t row = 0; row < out->live; row++) {
    if (index->i[row] < 0)
      ir_fail(inst->loc, "uniform: index %d of row %lld is negative", index->i[row], (long long)row);
    for (int64_t column = 0; column < columns; column++)
      out->f[row * columns + column] =
          eval_uniform_draw(run->env->seed, (uint64_t)(index->i[row] * columns + column), tag, (uint32_t)step->i[0]);
  }
}
