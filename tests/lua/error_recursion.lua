-- RUN: not %moec ir %s 2>&1 | FileCheck %s
-- CHECK: error_recursion.lua:[[@LINE+3]]: stack overflow
-- CHECK-NOT: traceback
local function f(n)
  return 1 + f(n + 1)
end
f(1)
