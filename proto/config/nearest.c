/* Edit distance over three rows (optimal string alignment), on at most NAME_BYTES characters. */
#include "proto/config/nearest.h"

#include <limits.h>
#include <stddef.h>
#include <string.h>

enum { NAME_BYTES = 64 };

static int min_int(int a, int b)
{
    return a < b ? a : b;
}

static char plain(char letter)
{
    return letter == '-' ? '_' : letter;
}

static int distance_of(const char *a, const char *b)
{
    int rows[3][NAME_BYTES + 1];
    int n_a = (int)strnlen(a, NAME_BYTES), n_b = (int)strnlen(b, NAME_BYTES);

    for (int j = 0; j <= n_b; j++)
        rows[0][j] = j;
    for (int i = 1; i <= n_a; i++) {
        int *row = rows[i % 3], *above = rows[(i + 2) % 3], *two_above = rows[(i + 1) % 3];
        row[0] = i;
        for (int j = 1; j <= n_b; j++) {
            char x = plain(a[i - 1]), y = plain(b[j - 1]);
            row[j] = min_int(above[j - 1] + (x != y), 1 + min_int(above[j], row[j - 1]));
            if (i > 1 && j > 1 && x == plain(b[j - 2]) && y == plain(a[i - 2]))
                row[j] = min_int(row[j], two_above[j - 2] + 1);
        }
    }
    return rows[n_a % 3][n_b];
}

struct nearest nearest_open(const char *word)
{
    return (struct nearest){.word = word, .best = NULL, .distance = INT_MAX};
}

void nearest_offer(struct nearest *nearest, const char *name)
{
    int distance = distance_of(nearest->word, name);

    if (distance < nearest->distance) {
        nearest->distance = distance;
        nearest->best = name;
    }
}

const char *nearest_result(const struct nearest *nearest)
{
    int length = (int)strnlen(nearest->word, NAME_BYTES);
    int most = length / 2 > 3 ? length / 2 : 3;

    return nearest->best != NULL && nearest->distance <= most ? nearest->best : NULL;
}
