-- RUN: sh -c '%moec ir %s; test $? = 1' 2>&1 | FileCheck %s
-- CHECK: error_endless_loop.lua:6: the script ran more than 500 million instructions: does a loop never end?
-- CHECK-NOT: {{.}}
local n = 0
while true do
  n = n + 1
end
