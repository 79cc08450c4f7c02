/* A kernel that knows by how much the clock may be off: MAX_ERROR_US says it. For LD_PRELOAD; the
 * layout of the answer is that of the C library's own header. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/timex.h>

int adjtimex(struct timex *state)
{
    const char *told = getenv("MAX_ERROR_US");
    if (told == NULL || state->modes != 0) {
        errno = EPERM;
        return -1;
    }
    memset(state, 0, sizeof *state);
    state->status = STA_UNSYNC;
    state->maxerror = atol(told);
    return TIME_ERROR;
}
