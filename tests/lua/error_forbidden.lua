-- RUN: not %moec ir %s 2>&1 | FileCheck %s
-- CHECK: error_forbidden.lua:[[@LINE+2]]: `io` does not exist in model scripts: they reach nothing outside themselves
-- CHECK-NOT: {{.}}
local file = io.open("/etc/passwd")
