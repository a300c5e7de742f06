-- RUN: not %moec ir %s 2>&1 | FileCheck %s
-- CHECK: error_no_model.lua:{{[0-9]+}}: the script returns nothing, expected moec.model {...}
local moec = require "moec"
