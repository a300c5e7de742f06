local moec = require "moec"
local nn, op, gate = moec.nn, moec.op, moec.gate
local c = moec.config { batch = 4, seq = 8, d = 16 }
