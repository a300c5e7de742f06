/* The command line of the commands that read a model script: one table of options for all of them. */
#ifndef MOEC_FRONTEND_OPTIONS_H
#define MOEC_FRONTEND_OPTIONS_H

#include "codegen/plan.h"
#include "passes/pipeline.h"

/* Which commands know an option. */
enum {
  COMMAND_BUILD = 1 << 0,
  COMMAND_TRAIN = 1 << 1,
  COMMAND_IR = 1 << 2,
  COMMAND_EMIT = 1 << 3,
  COMMAND_EXPLAIN = 1 << 4,
  COMMAND_FORECAST = 1 << 5,
  COMMAND_CHECK = 1 << 6,
  COMMAND_ALL = (1 << 7) - 1
};

typedef struct Options {
  const char *command;
  const char *model;      /* MODEL.lua */
  const char **defines;   /* -D; arena vector */
  const char *output;     /* -o; NULL when absent */
  const char *phase;      /* --phase */
  const char *what;       /* --what */
  const char *data, *out; /* --data, --out of train */
  const char *run;        /* --run of explain; NULL when absent */
  const char **trainer;   /* of train: the words for the trainer; arena vector */
  int64_t seed, memory;   /* memory: bytes, 0 when not given */
  bool after_all;         /* --after=all */
  bool json, all, keep_values, native;
  CudaKinds grouped, attention; /* --grouped, --attention */
  bool cpu, cuda;               /* --target; both when not given */
  const char **precompile;      /* --precompile: architectures; arena vector */
  const char *rates_file;       /* --rates, read into pipeline.rates */
  PipelineOptions pipeline;     /* verified by pipeline_check */
} Options;

/* Parses the words behind the command's name. A mistake: one message, the usage line, exit code 2. */
Options options_read(Arena *arena, unsigned command, int argc, char **argv);

/* "moec build: text" and the command's usage line on standard error; exit code 2. */
_Noreturn void usage_fail(unsigned command, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* The usage line and the options of a command, for --help. */
void usage_print(unsigned command, FILE *out);

#endif
