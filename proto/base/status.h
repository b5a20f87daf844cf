/* Status codes and the thread-local error text.
 *
 * Whatever the world can cause (files, peers, data, devices, memory at set-up) comes back as an
 * `enum status`; 0 is success. The code says what the caller must rebuild, the text says what
 * happened: what, which, got, wanted, and what to do. What only our own bug can cause is CHECK.
 *
 *   enum status index_open(struct index **out, const char *path)
 *   {
 *       if (!exists)
 *           FAIL(STATUS_NOT_FOUND, "index '%s' does not exist; make it: ibot-index DIR", path);
 *       TRY(header_read(...)); // hands the callee's code and text on
 *       ...
 *   }
 */
#ifndef IBOT_PROTO_BASE_STATUS_H
#define IBOT_PROTO_BASE_STATUS_H

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

enum status {
    STATUS_OK = 0,
    STATUS_INVALID,     /* an option, argument or run file is wrong: the user must change it */
    STATUS_NOT_FOUND,   /* a named thing is missing */
    STATUS_IO,          /* the operating system refused: errno is in the text */
    STATUS_CORRUPT,     /* bytes from disk or wire break their format: drop this record or file */
    STATUS_UNSUPPORTED, /* valid, but not something this build or op can do */
    STATUS_MISMATCH,    /* two sides disagree (version, data set, architecture): this session */
    STATUS_NO_MEMORY,   /* allocation failed at set-up */
    STATUS_TIMEOUT,     /* a deadline passed */
    STATUS_CLOSED,      /* the other end of a queue or session is gone, in good order */
    STATUS_INTERRUPTED, /* asked to stop by a signal */
    STATUS_NOT_FINITE,  /* a loss or gradient is NaN or infinite: the run must stop */
    STATUS_DEVICE,      /* the accelerator or the collective failed: this process */
    STATUS_COUNT
};

#define IBOT_WARN_UNUSED                 __attribute__((warn_unused_result))
#define IBOT_PRINTF(format_index, first) __attribute__((format(printf, format_index, first)))

/* Stores the formatted text for this thread and returns `code`. The text may contain the current
 * status_message(), so that callers can put their own words before it. */
enum status status_set(enum status code, const char *format, ...) IBOT_PRINTF(2, 3);

/* The text of this thread's last failure; "" if there was none. Valid until its next failure. */
const char *status_message(void);

/* Short name of a code, such as "not found". */
const char *status_name(enum status code);

/* The exit status a program ends with: 0 done, 2 usage, 3 mismatch on resume, 75 interrupted after
 * a good checkpoint (EX_TEMPFAIL, requeue), 1 anything else. */
int status_exit_code(enum status code);

/* Prints the message with file and line to stderr and aborts. Used by CHECK alone. */
__attribute__((noreturn)) void status_check_failed(const char *file, int line,
                                                   const char *condition, const char *format, ...)
    IBOT_PRINTF(4, 5);

/* Leaves the function with a new failure. */
#define FAIL(code, ...) return status_set((code), __VA_ARGS__)

/* Leaves the function with the callee's failure. */
#define TRY(call)                                                                                  \
    do {                                                                                           \
        enum status try_status_ = (call);                                                          \
        if (try_status_ != STATUS_OK)                                                              \
            return try_status_;                                                                    \
    } while (0)

/* For functions that own something: the failure goes to the local `status`, control to `out:`. */
#define TRY_OUT(call)                                                                              \
    do {                                                                                           \
        status = (call);                                                                           \
        if (status != STATUS_OK)                                                                   \
            goto out;                                                                              \
    } while (0)
#define FAIL_OUT(code, ...)                                                                        \
    do {                                                                                           \
        status = status_set((code), __VA_ARGS__);                                                  \
        goto out;                                                                                  \
    } while (0)

/* A broken promise of our own code; in every build. */
#define CHECK(condition, ...)                                                                      \
    do {                                                                                           \
        if (__builtin_expect(!(condition), 0))                                                     \
            status_check_failed(__FILE__, __LINE__, #condition, " " __VA_ARGS__);                  \
    } while (0)

/* The same for places too hot to check in release builds. */
#ifdef NDEBUG
#define DCHECK(condition, ...)                                                                     \
    do {                                                                                           \
        if (0)                                                                                     \
            CHECK(condition, ##__VA_ARGS__);                                                       \
    } while (0)
#else
#define DCHECK(condition, ...) CHECK(condition, ##__VA_ARGS__)
#endif

#ifdef __cplusplus
}
#endif

#endif
