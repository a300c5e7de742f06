-- RUN: not %moec ir %s 2>&1 | FileCheck %s
-- CHECK: error_long_string.lua:[[@LINE+2]]: string.rep: the result would have 1000000000000 bytes
-- CHECK-NOT: stack
local s = ("x"):rep(1000000000000)
