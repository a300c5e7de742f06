-- RUN: not %moec ir %s 2>&1 | FileCheck %s
-- CHECK: error_require.lua:[[@LINE+1]]: require: found "socket", expected "moec", the only module there is
local socket = require "socket"
