/* What a host that has shared out the atoms of a structure among ranks gives the library.
 *
 * A rank's atoms are its owned ones, rows 0 ... n_owned - 1 of every matrix, and after them the
 * ghosts within one cutoff, rows n_owned ... n_all - 1: atoms of other ranks, and periodic images
 * of any. Compiled packages that exchange features (eqcalc compile --exchange) call `forward`
 * before a layer reads its neighbours, and `reverse` in the backward pass.
 *
 * This header is plain C and needs nothing else. The functions are found in the library with
 * dlsym. Whoever compiles a host keeps it under a key that covers this file
 * (eqcalc.native.build.library_checksum does).
 */

#ifndef EQCALC_EXCHANGE_H
#define EQCALC_EXCHANGE_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What the numbers of a matrix are. */
enum { EQCALC_FLOAT32 = 0, EQCALC_FLOAT64 = 1, EQCALC_INT64 = 2 };

/* Both take a matrix (n_all, width), row by row without gaps, and return 1 when they are done.
 * Anything else, or a C++ exception, ends the model's call with an error.
 *
 * forward : the first n_owned rows are filled; fills the others, each with its owner's row
 * reverse : adds each ghost's row to its owner's; the first n_owned rows are the result, what
 *           is in the others does not matter. Float32 and float64 only.
 */
typedef int (*eqcalc_exchange_call)(void* context, void* rows, int64_t n_owned, int64_t n_all,
                                    int64_t width, int kind);

struct eqcalc_exchange {
  void* context;
  eqcalc_exchange_call forward;
  eqcalc_exchange_call reverse;
};

/* Exchange by these calls in the present thread from now on; NULL: by none. They are copied. */
void eqcalc_set_exchange(const struct eqcalc_exchange* exchange);

/* Why the last exchange of this thread failed, "" if it did not: torch may pass on an error of its
 * own in place of it. Valid until the thread's next exchange. */
const char* eqcalc_exchange_error(void);

#ifdef __cplusplus
}
#endif

#endif
