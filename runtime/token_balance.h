/* Tables of tokens to experts that depend on how often each token occurs in the training data. */
#ifndef MOEC_TOKEN_BALANCE_H
#define MOEC_TOKEN_BALANCE_H

#include "runtime/data.h"
#include "runtime/execute.h"

/* Fills every parameter of the arenas whose initialisation is "token_balance(E)", f32[V,1], unless the table `before`
 * (NULL: none) has it: then it was copied. */
void token_balance(Arenas *arenas, const PlanTable *before, const TokenFile *tokens);

#endif
