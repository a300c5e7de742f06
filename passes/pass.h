/* What a pass is: a function over a module. Its name is its file and its flag (--no-NAME, --NAME:option=value).
 *
 * A pass copies forward (passes/rewrite.h): it reads the old function and writes a new one, keeping names, locations,
 * groups and symbols; no analysis outlives it. It never changes what is computed. */
#ifndef MOEC_PASS_H
#define MOEC_PASS_H

#include "ir/ir.h"
#include "passes/ledger.h"
#include "passes/rates.h"

/* One "--PASS:option=value" of the command line. */
typedef struct PassSetting {
  const char *pass, *option, *value;
} PassSetting;

typedef struct PassContext {
  Module *module;
  Ledger *ledger;
  const char *pass;            /* the running pass's name */
  const PassSetting *settings; /* arena vector, of all passes */
  const Rates *rates;          /* of the target that the module is compiled for */
} PassContext;

/* Returns whether it changed anything. */
typedef bool (*PassFunction)(PassContext *context);

/* The value of an option of the running pass: the last one given, or `otherwise`. ir_fail when it is not a number. */
int64_t pass_setting_int(const PassContext *context, const char *option, int64_t otherwise);
const char *pass_setting_text(const PassContext *context, const char *option, const char *otherwise);

bool pass_dense_experts(PassContext *context);
bool pass_autodiff(PassContext *context);
bool pass_fold(PassContext *context);
bool pass_cse(PassContext *context);
bool pass_dce(PassContext *context);
bool pass_precision(PassContext *context);
bool pass_chunk_head(PassContext *context);
bool pass_recompute(PassContext *context);
bool pass_narrow_rows(PassContext *context);
bool pass_fuse_gate(PassContext *context);
bool pass_fuse_rows(PassContext *context);
bool pass_schedule(PassContext *context);

#endif
