-- RUN: not %moec ir %s 2>&1 | FileCheck %s
-- CHECK: error_syntax.lua:4: unexpected symbol near '='
-- CHECK-NOT: {{.}}
local x = = 3
