/* moec's main: finds the command and hands it the rest of the line. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "frontend/commands.h"

enum { EXIT_USAGE = 2, EXIT_ENVIRONMENT = 3 };

typedef struct Command {
  const char *name;
  int (*run)(int argc, char **argv);
  const char *usage;
} Command;

static const Command commands[] = {
    {"build", command_build, "MODEL.lua -o TRAINER     compile to a trainer, one file that needs nothing else"},
    {"train", command_train, "MODEL.lua --data D --out R    build and run in one go"},
    {"ir", command_ir, "MODEL.lua                print the IR; --phase=NAME, --after=PASS"},
    {"opt", command_opt, "FILE.ir --passes=a,b     run passes on IR text; - is standard input"},
    {"emit", command_emit, "MODEL.lua --what=kernels|c|cuda|plan    what the code generator makes"},
    {"explain", command_explain, "MODEL.lua                the decisions of the compiler and why"},
    {"forecast", command_forecast, "MODEL.lua                parameters, work and memory before any run"},
    {"check", command_check, "MODEL.lua                passes, gradients and trainer against the interpreter"},
    {"data", command_data, "FILE... -o DIR           tokenise text"},
    {"compare", command_compare, "SPEC.lua --out DIR        many models on the same data, seeds and budget; a table"},
    {"report", command_report, "RUN... -o report.html     one page about runs: curves, routing, memory, decisions"},
};

static void print_usage(FILE *out) {
  fprintf(out, "usage: moec COMMAND ...\n");
  for (size_t i = 0; i < sizeof commands / sizeof commands[0]; i++)
    fprintf(out, "  moec %-9s %s\n", commands[i].name, commands[i].usage);
  fprintf(out, "  moec COMMAND --help lists its options\n");
}

/* Wherever moec ends well: what it printed has arrived, or it was not done. */
static void finish(int code, void *unused) {
  (void)unused;
  if (code != 0 || (fflush(stdout) == 0 && !ferror(stdout)))
    return;
  fprintf(stderr, "moec: standard output: cannot write: %s\n", strerror(errno));
  _exit(EXIT_ENVIRONMENT);
}

int main(int argc, char **argv) {
  on_exit(finish, NULL);
  signal(SIGXFSZ, SIG_IGN); /* a limit on the size of files is then a write that fails, with its message */
  if (argc < 2) {
    print_usage(stderr);
    return EXIT_USAGE;
  }
  if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "help") == 0) {
    print_usage(stdout);
    return 0;
  }
  for (size_t i = 0; i < sizeof commands / sizeof commands[0]; i++)
    if (strcmp(argv[1], commands[i].name) == 0)
      return commands[i].run(argc - 2, argv + 2);
  fprintf(stderr, "moec: unknown command %s\n", argv[1]);
  print_usage(stderr);
  return EXIT_USAGE;
}
