/* moec's main: finds the command and hands it the rest of the line. */
#include <stdio.h>
#include <string.h>

#include "frontend/commands.h"

enum { EXIT_USAGE = 2 };

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
};

static void print_usage(FILE *out) {
  fprintf(out, "usage: moec COMMAND ...\n");
  for (size_t i = 0; i < sizeof commands / sizeof commands[0]; i++)
    fprintf(out, "  moec %-9s %s\n", commands[i].name, commands[i].usage);
  fprintf(out, "  moec COMMAND --help lists its options\n");
}

int main(int argc, char **argv) {
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
