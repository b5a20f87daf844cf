/* The known name nearest to a mistyped one, by edit distance (insert, delete, replace, swap of
 * neighbours; `-` and `_` count as the same), for "did you mean" in messages. */
#ifndef IBOT_PROTO_CONFIG_NEAREST_H
#define IBOT_PROTO_CONFIG_NEAREST_H

#ifdef __cplusplus
extern "C" {
#endif

struct nearest {
    const char *word, *best; /* borrowed */
    int distance;
};

struct nearest nearest_open(const char *word);

/* Considers one known name, borrowed as long as the struct is used. */
void nearest_offer(struct nearest *nearest, const char *name);

/* The best name so far, or NULL when none resembles the word. */
const char *nearest_result(const struct nearest *nearest);

#ifdef __cplusplus
}
#endif

#endif
