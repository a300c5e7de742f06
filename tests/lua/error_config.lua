-- RUN: not %moec ir %s -D layer=4 2>&1 | FileCheck %s --check-prefix=KEY
-- RUN: not %moec ir %s -D layers=4.5 2>&1 | FileCheck %s --check-prefix=TYPE
-- RUN: not %moec ir %s -D size=tyny 2>&1 | FileCheck %s --check-prefix=SIZE
-- RUN: not %moec ir %s -D drop=yes 2>&1 | FileCheck %s --check-prefix=BOOLEAN
-- RUN: not %moec ir %s -D nested.rat=2 2>&1 | FileCheck %s --check-prefix=NESTED
-- RUN: not %moec ir %s -D layers=3 -D nested.rate=2 -D size=tiny 2>&1 | FileCheck %s --check-prefix=MISSING
local moec = require "moec"
-- KEY: error_config.lua:[[@LINE+5]]: -D layer=4: unknown key `layer`, the nearest is `layers`
-- TYPE: error_config.lua:[[@LINE+4]]: -D layers=4.5: found "4.5", expected a whole number like the default 2
-- SIZE: error_config.lua:[[@LINE+3]]: -D size=tyny: unknown key `tyny`, the nearest is `tiny`
-- BOOLEAN: error_config.lua:[[@LINE+2]]: -D drop=yes: found "yes", expected a boolean like the default false
-- NESTED: error_config.lua:[[@LINE+1]]: -D nested.rat=2: unknown key `rat`, the nearest is `rate`
local c = moec.config { layers = 2, drop = false, nested = { rate = 0.5 }, sizes = { tiny = { layers = 1 } } }
-- MISSING: config{{[[:space:]]}}3{{[[:space:]]}}2.0
-- MISSING: error_config.lua:[[@LINE+2]]: the configuration has no `layrs`, the nearest is `layers`
if c.layers == 3 then print("config", c.layers, c.nested.rate) end
return c.layrs
