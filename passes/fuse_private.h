/* Shared by fuse.c (the search), fuse_cost.c (limits, bytes, words) and fuse_write.c (the new order, the ledger). */
#ifndef MOEC_FUSE_PRIVATE_H
#define MOEC_FUSE_PRIVATE_H

#include "ir/rows.h"
#include "passes/fuse.h"

#define NO_CLUSTER UINT32_MAX

/* Instructions that stand together. A cluster of one is an instruction by itself. */
typedef struct Cluster {
  uint32_t *members; /* arena vector of instruction indices, ascending: the order in which they stand */
  uint32_t anchor;   /* the member at whose place in the old order all of them stand */
  bool closed;       /* a group that another pass has formed */
} Cluster;

typedef struct Fuse {
  const PassContext *context;
  Func *f;
  Arena *arena;
  const bool *seed;
  FuseLimits limits;
  uint32_t *uses;     /* by value: reads, also as a result (row_count_uses) */
  uint32_t **readers; /* by value: arena vector of the instructions that read it */
  uint32_t *heavy;    /* by instruction: how many before it are neither row ops, constants nor views */
  uint32_t *cluster;  /* by instruction: its cluster, NO_CLUSTER for floats and for what cannot be grouped */
  Cluster *clusters;  /* arena vector; those that were merged into another have no members */
  uint32_t *trial;    /* arena vector: the instructions of the union that is being considered, ascending */
  uint32_t *stamp;    /* by instruction: equal to `now` when it is in the trial */
  uint32_t now;
} Fuse;

/* fuse.c */
/* Constants, and views outside of clusters: they have no place of their own but stand wherever they are needed. */
bool fuse_floats(const Fuse *s, uint32_t inst);
bool fuse_in_trial(const Fuse *s, uint32_t inst);
/* The instruction that makes v; UINT32_MAX for arguments and parameters. */
uint32_t fuse_definition(const Fuse *s, ValueId v);
/* The same behind floating views: the instruction in whose memory v is. */
uint32_t fuse_root(const Fuse *s, ValueId v);
/* Makes the trial the union of two clusters with the views between them. */
void fuse_try_pair(Fuse *s, uint32_t a, uint32_t b);
/* NULL, or why the trial cannot be one kernel, as far as the kernel is concerned. */
const char *fuse_kernel_refusal(const Fuse *s);
/* NULL, or why the trial cannot stand at the place of `last`, its last instruction. */
const char *fuse_order_refusal(const Fuse *s, uint32_t last);

/* fuse_cost.c */
/* NULL, or which limit the trial exceeds. */
const char *fuse_limit_refusal(const Fuse *s);
double fuse_value_bytes(const Fuse *s, ValueId v);
/* Bytes that the instructions read and write when they are one kernel. */
double fuse_traffic(const Fuse *s, const uint32_t *insts, uint32_t count);
/* Bytes that stay alive longer, less those that need no memory any more, when the trial stands at the place of `last`.
 */
double fuse_kept_bytes(const Fuse *s, uint32_t last);
/* "add, mul, sum, ... 7 more" */
const char *fuse_op_list(const Fuse *s, const uint32_t *insts, uint32_t count);
const char *fuse_bytes_text(Arena *arena, double bytes);

/* fuse_write.c */
bool fuse_write(Fuse *s);

#endif
