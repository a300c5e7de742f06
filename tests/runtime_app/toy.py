"""A trainer made by hand for tests of the trainer's application: a bigram model with hand-written kernels.

Phase `a` has table `small` (w [256,256]), phase `b` table `big` (w, and a bias b that a transition adds) and pretends to
route tokens to four experts. The plan is the text of docs/plan.md; pack() appends the payload (runtime/payload.h).
"""
import os
import struct
import subprocess

V, SEQUENCE, BATCH, EXPERTS = 256, 8, 4, 4
W, B = V * V, 512  # elements of the two segments

KERNELS = r"""
#include <math.h>
#include <stdint.h>
typedef struct { void *const *pointer; int64_t rows; } moec_launch;
enum { V = 256 };
/* seed, param */
void toy_init(const moec_launch *l) {
  uint64_t x = *(uint64_t *)l->pointer[0];
  float *w = l->pointer[1];
  for (int i = 0; i < V * V; i++) {
    x = x * 6364136223846793005u + 1442695040888963407u;
    w[i] = ((float)(x >> 40) / 16777216.0f - 0.5f) * 0.2f;
  }
}
static void model(const moec_launch *l, const float *w, const float *b, float *gw, float *gb, float scale, double *ce) {
  const int32_t *tokens = l->pointer[0], *targets = l->pointer[1];
  const float *weight = l->pointer[2];
  *ce = 0;
  for (int64_t i = 0; i < l->rows; i++) {
    if (weight[i] == 0) continue;
    const float *z = w + tokens[i] * V;
    double sum = 0;
    for (int j = 0; j < V; j++) sum += exp(z[j] + (b ? b[j] : 0));
    *ce += weight[i] * (log(sum) - z[targets[i]] - (b ? b[targets[i]] : 0));
    for (int j = 0; gw && j < V; j++) {
      float g = scale * (float)(exp(z[j] + (b ? b[j] : 0)) / sum - (j == targets[i]));
      gw[tokens[i] * V + j] += g;
      if (gb) gb[j] += g;
    }
  }
}
static void zero(float *g, int n) { for (int i = 0; i < n; i++) g[i] = 0; }
/* tokens targets weight inverse w gw loss ce step bad */
void toy_train_a(const moec_launch *l) {
  double ce; float inverse = *(float *)l->pointer[3];
  zero(l->pointer[5], V * V);
  model(l, l->pointer[4], 0, l->pointer[5], 0, inverse, &ce);
  *(float *)l->pointer[6] = *(float *)l->pointer[7] = (float)(ce * inverse);
  if (*(int32_t *)l->pointer[8] == BAD_STEP) *(float *)l->pointer[6] = NAN;
}
/* tokens targets weight inverse w gw loss ce b gb load pairs balance tau */
void toy_train_b(const moec_launch *l) {
  double ce; float inverse = *(float *)l->pointer[3], *load = l->pointer[10];
  zero(l->pointer[5], V * V); zero(l->pointer[9], 512); zero(load, 4);
  model(l, l->pointer[4], l->pointer[8], l->pointer[5], l->pointer[9], inverse, &ce);
  for (int64_t i = 0; i < l->rows; i++) load[((int32_t *)l->pointer[0])[i] % 4]++;
  *(float *)l->pointer[7] = (float)(ce * inverse);
  *(float *)l->pointer[12] = *(float *)l->pointer[13];
  *(float *)l->pointer[6] = (float)(ce * inverse) + 0.01f * *(float *)l->pointer[12];
  *(float *)l->pointer[11] = (float)l->rows;
}
/* tokens targets weight w ce (b) */
void toy_eval_a(const moec_launch *l) {
  double ce; model(l, l->pointer[3], 0, 0, 0, 0, &ce); *(float *)l->pointer[4] = (float)ce;
}
void toy_eval_b(const moec_launch *l) {
  double ce; model(l, l->pointer[3], l->pointer[5], 0, 0, 0, &ce); *(float *)l->pointer[4] = (float)ce;
}
/* p g m v lr t norm; rows: elements */
void toy_adam(const moec_launch *l) {
  float *p = l->pointer[0], *g = l->pointer[1], *m = l->pointer[2], *v = l->pointer[3];
  float lr = *(float *)l->pointer[4], t = *(float *)l->pointer[5];
  double norm = 0;
  for (int64_t i = 0; i < l->rows; i++) {
    m[i] = 0.9f * m[i] + 0.1f * g[i];
    v[i] = 0.98f * v[i] + 0.02f * g[i] * g[i];
    p[i] -= lr * (m[i] / (1 - powf(0.9f, t))) / (sqrtf(v[i] / (1 - powf(0.98f, t))) + 1e-8f);
    norm += g[i] * g[i];
  }
  *(float *)l->pointer[6] = (float)sqrt(norm);
}
/* tokens last w logits */
void toy_sample(const moec_launch *l) {
  int32_t token = ((int32_t *)l->pointer[0])[*(int32_t *)l->pointer[1]];
  for (int j = 0; j < V; j++) ((float *)l->pointer[3])[j] = ((float *)l->pointer[2])[token * V + j];
}
"""


def data_arguments(n, segments, place):
    """Lines of the data arguments and their places, 64-byte steps after one another."""
    lines, at = [], {}
    for name, kind, shape in [("tokens", "i32", n), ("targets", "i32", n), ("weight", "f32", n), ("position", "i32", n),
                              ("off", "i32", segments + 1), ("live", "f32", n), ("token", "i32", n)]:
        at[name] = place
        lines.append(f"  arg {name} {kind} shape={shape} at=act:{place}")
        place += (shape * 4 + 63) // 64 * 64
    return lines, at, place


def plan(accumulate=1, steps_a=10, steps=40):
    n, segments = BATCH * SEQUENCE // accumulate, BATCH // accumulate
    out = ["moec-plan 1 target=cpu module=toy task=lm", "arena act=65536",
           f"run steps={steps} batch={BATCH} accumulate={accumulate} sequence={SEQUENCE} vocabulary={V} tokens={n} segments={segments}",
           "schedule lr count=4 linear(0.01,0.001,4)", "schedule b.tau count=100 linear(2,-0.01,100)",
           f"table small size={W} gradients={4 * W} segments=1 params=1",
           f"  segment 0 offset=0 size={W} decay=0 birth=0", f"  param w offset=0 shape={V},{V} segment=0 init=uniform",
           f"table big size={W + B} gradients={4 * (W + B)} segments=2 params=2",
           f"  segment 0 offset=0 size={W} decay=0 birth=0", f"  segment 1 offset={W} size={B} decay=0 birth=1",
           f"  param w offset=0 shape={V},{V} segment=0 init=uniform",
           f"  param b offset={W} shape={V} segment=1 init=zeros",
           f"phase a steps={steps_a} table=small enter=- line=toy.lua:1",
           "phase b steps=0 table=big enter=small_to_big line=toy.lua:2",
           "func init table=small act=0", "  launch toy_init rows=1 seed:0 param:0", "end",
           "func small_to_big table=big act=0"]
    for space in ("param", "m", "v"):
        out.append(f"  copy rows={V} columns={V} type=f32 from=src.{space}:0 ldf={V} to={space}:0 ldt={V}")
    out.append("end")
    for phase, table in (("a", "small"), ("b", "big")):
        lines, at, place = data_arguments(n, segments, 0)
        data = f"act:{at['tokens']} act:{at['targets']} act:{at['weight']}"
        inverse, loss, ce, step, load, pairs, balance, tau, logits, last = (place + 64 * i for i in (0, 1, 2, 3, 4, 5, 6, 7, 9, 8))
        out += [f"func {phase}.train table={table} act=65536", "  work flops=1000 pair=10", *lines,
                f"  arg inverse_targets f32 shape= at=act:{inverse}"]
        if phase == "a":
            out.append(f"  arg step i32 shape= at=act:{step}")
        else:
            out += [f"  arg tau f32 shape= at=act:{tau}", f"  result load.h2 f32 shape=1,{EXPERTS} at=act:{load}",
                    f"  result pairs f32 shape= at=act:{pairs}", f"  result aux.balance f32 shape= at=act:{balance}"]
        out += [f"  result loss f32 shape= at=act:{loss}", f"  result ce f32 shape= at=act:{ce}",
                f"  result grad @w f32 shape={V},{V} at=grad:0"]
        common = f"{data} act:{inverse} param:0 grad:0 act:{loss} act:{ce}"
        if phase == "a":
            out.append(f"  launch toy_train_a rows={n} {common} act:{step}")
        else:
            out.append(f"  launch toy_train_b rows={n} {common} param:{W * 4} grad:{W * 4} act:{load} act:{pairs} act:{balance} act:{tau}")
        out += ["end", f"func {phase}.eval table={table} act=65536", *lines,
                f"  arg inverse_targets f32 shape= at=act:{inverse}", f"  result ce f32 shape= at=act:{ce}",
                f"  launch toy_eval_{phase} rows={n} {data} param:0 act:{ce}" + (f" param:{W * 4}" if phase == "b" else ""), "end",
                f"func {phase}.sample table={table} act=65536", *lines, f"  arg last i32 shape=1 at=act:{last}",
                f"  result logits f32 shape=1,{V} at=act:{logits}",
                f"  launch toy_sample rows=1 act:{at['tokens']} act:{last} param:0 act:{logits}", "end"]
    for table, sizes in (("small", [W]), ("big", [W, B])):
        out += [f"func {table}.update table={table} act=65536", "  work flops=100 pair=0", "  arg lr f32 shape= at=act:0"]
        offset = 0
        for i, size in enumerate(sizes):
            out.append(f"  arg t{i} f32 shape= at=act:{64 + 64 * i}")
            for letter, space in zip("pgmv", ("param", "grad", "m", "v")):
                out.append(f"  arg {letter}{i} f32 shape={size} at={space}:{offset * 4}")
            offset += size
        out.append("  result grad_norm f32 shape= at=act:1024")
        offset = 0
        for i, size in enumerate(sizes):
            places = " ".join(f"{space}:{offset * 4}" for space in ("param", "grad", "m", "v"))
            out.append(f"  launch toy_adam rows={size} {places} act:0 act:{64 + 64 * i} act:{1024 + 64 * i}")
            offset += size
        out.append("end")
    return "\n".join(out) + "\n"


def fnv(data):
    value = 0xCBF29CE484222325
    for byte in data:
        value = (value ^ byte) * 0x100000001B3 % 2**64
    return value


def pack(runtime, path, directory, bad_step=-1, ir="module toy\n", native=None, **options):
    """Writes the trainer `path` from the bare runtime. `native`: the features of the CPU that it has kernels of its own for."""
    source, library = os.path.join(directory, "toy.c"), os.path.join(directory, "toy.so")
    with open(source, "w") as file:
        file.write(KERNELS.replace("BAD_STEP", str(bad_step)))
    subprocess.check_call([os.environ.get("CC", "cc"), "-O1", "-shared", "-fPIC", "-ffp-contract=off", "-o", library, source, "-lm"])
    kernels = open(library, "rb").read()
    sections = [("config.json", b'{"model":"toy"}\n'), ("model.ir", ir.encode()), ("plan.cpu", plan(**options).encode()),
                ("kernels.v3.so", kernels), ("kernels.v4.so", kernels)]
    if native is not None:
        sections += [("kernels.native.so", kernels), ("native.cpu", native.encode())]
    body, index = open(runtime, "rb").read(), ""
    for name, data in sections:
        index += f"{name} {len(body)} {len(data)}\n"
        body += data
    index = index.encode()
    with open(path, "wb") as file:
        whole = body + index + b"MOECPAY1" + struct.pack("<QQ", len(body), len(index))
        file.write(whole + struct.pack("<Q", fnv(whole)))
    os.chmod(path, 0o755)
