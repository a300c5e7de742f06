-- A pattern that backtracks for hours would escape the count of instructions.
-- RUN: not %moec ir %s 2>&1 | FileCheck %s
-- CHECK: error_pattern.lua:[[@LINE+1]]: string.find: a pattern with 10 repeats on 1000 bytes could take too long
print(("a"):rep(1000):find(("a*"):rep(10) .. "b"))
