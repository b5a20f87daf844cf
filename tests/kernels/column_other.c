/* A column of another version; with LIBRARY_FUNCTION, one that needs a library besides. */
#include "kernels/column.h"

#ifdef LIBRARY_FUNCTION
void LIBRARY_FUNCTION(void);
#endif

kernels_column_fn kernels_column;

const struct kernels_column *kernels_column(const struct kernels_host *host)
{
    static const struct kernels_column column = {.interface = "0123456789abcdef of long ago"};

    (void)host;
#ifdef LIBRARY_FUNCTION
    LIBRARY_FUNCTION();
#endif
    return &column;
}
