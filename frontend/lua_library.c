/* The Lua library, embedded: every file of frontend/lua/moec, in the order in which they load.
 *
 * The assembler reads the files (.incbin), relative to an include directory of the compiler's command line, which must
 * hold the root of the source tree.
 */
#include "frontend/lua_script.h"

#define LIBRARY_FILES(X)                                                                                               \
  X(options)                                                                                                           \
  X(sandbox)                                                                                                           \
  X(config)                                                                                                            \
  X(context)                                                                                                           \
  X(op)                                                                                                                \
  X(init)                                                                                                              \
  X(nn)                                                                                                                \
  X(expert)                                                                                                            \
  X(groups)                                                                                                            \
  X(gate)                                                                                                              \
  X(gate_top)                                                                                                          \
  X(gate_select)                                                                                                       \
  X(gate_assign)                                                                                                       \
  X(diagnostics)                                                                                                       \
  X(moe)                                                                                                               \
  X(schedule)                                                                                                          \
  X(optim)                                                                                                             \
  X(phase)                                                                                                             \
  X(transition)                                                                                                        \
  X(compare)                                                                                                           \
  X(model)                                                                                                             \
  X(gpt)

#define X(name)                                                                                                        \
  extern const char moec_lua_##name[], moec_lua_##name##_end[];                                                        \
  __asm__(".section .rodata\n"                                                                                         \
          ".global moec_lua_" #name "\n"                                                                               \
          ".global moec_lua_" #name "_end\n"                                                                           \
          "moec_lua_" #name ":\n"                                                                                      \
          ".incbin \"frontend/lua/moec/" #name ".lua\"\n"                                                              \
          "moec_lua_" #name "_end:\n"                                                                                  \
          ".byte 0\n"                                                                                                  \
          ".text\n");
LIBRARY_FILES(X)
#undef X

const LibraryFile library_files[] = {
#define X(name) {"moec/" #name ".lua", moec_lua_##name, moec_lua_##name##_end},
    LIBRARY_FILES(X)
#undef X
};
const int library_file_count = sizeof library_files / sizeof *library_files;
