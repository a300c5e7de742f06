/* data_order_start of fixed cases, for data_order_test.py: a line "tokens sequence seed index start" for each. */
#include <inttypes.h>
#include <stdio.h>

#include "runtime/data.h"

int main(void) {
  static const int64_t lengths[] = {65, 66, 1000, 1023, 4096, 1100000, 300000000};
  static const int64_t indices[] = {0, 1, 2, 7, 63, 64, 1000, 1001, 12800, 99999999};
  for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++)
    for (int64_t sequence = 64; sequence <= 1024 && sequence < lengths[i]; sequence *= 16)
      for (uint64_t seed = 0; seed < 3; seed++) {
        DataOrder order = data_order(&(TokenFile){.count = lengths[i]}, sequence, seed);
        for (size_t k = 0; k < sizeof indices / sizeof *indices; k++)
          printf("%" PRId64 " %" PRId64 " %" PRIu64 " %" PRId64 " %" PRId64 "\n", lengths[i], sequence, seed,
                 indices[k], data_order_start(&order, indices[k]));
      }
  return 0;
}
