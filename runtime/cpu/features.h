/* The instructions that compiled code may use, so that kernels compiled for one machine alone (moec build --cpu=native)
 * are not run on another that lacks some. */
#ifndef MOEC_RUNTIME_CPU_FEATURES_H
#define MOEC_RUNTIME_CPU_FEATURES_H

#include <stdbool.h>
#include <stddef.h>

/* Names of this CPU's, each with a space behind it. */
char *cpu_features(void);
/* The first name in `text`, which cpu_features wrote on some machine, that this CPU lacks; NULL: it has all of them. */
const char *cpu_lacks(const char *text, size_t size);

#endif
