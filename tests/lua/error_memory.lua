-- RUN: sh -c '%moec ir %s; test $? = 1' 2>&1 | FileCheck %s
-- CHECK: error_memory.lua:[[@LINE+3]]: the script needs more than 1024 megabytes of memory
-- CHECK-NOT: {{.}}
local parts = {}
for i = 1, 100 do parts[i] = string.rep(string.char(i), 1 << 27) end
