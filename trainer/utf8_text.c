#include "trainer/utf8_text.h"

#include <stdio.h>
#include <string.h>

/* Bytes of the character that begins here, by RFC 3629; 0: none does. */
static size_t character_bytes(const unsigned char *s)
{
    static const unsigned char least_second[] = {0xe0, 0xf0}, most_second[] = {0xed, 0xf4};
    size_t n = s[0] < 0x80                   ? 1
               : s[0] >= 0xc2 && s[0] < 0xe0 ? 2
               : s[0] >= 0xe0 && s[0] < 0xf0 ? 3
               : s[0] >= 0xf0 && s[0] < 0xf5 ? 4
                                             : 0;

    for (size_t i = 1; i < n; i++)
        if ((s[i] & 0xc0) != 0x80)
            return 0;
    /* overlong ones, surrogates, beyond U+10FFFF */
    if ((s[0] == least_second[0] && s[1] < 0xa0) || (s[0] == least_second[1] && s[1] < 0x90) ||
        (s[0] == most_second[0] && s[1] > 0x9f) || (s[0] == most_second[1] && s[1] > 0x8f))
        return 0;
    return n;
}

char *utf8_text(char *out, size_t size, const char *bytes)
{
    const unsigned char *s = (const unsigned char *)bytes;
    size_t used = 0;

    while (*s != '\0') {
        size_t n = character_bytes(s), room = n > 0 ? n : 4;
        if (used + room >= size)
            break;
        if (n > 0)
            memcpy(out + used, s, n);
        else
            snprintf(out + used, 5, "\\x%02x", *s);
        used += room;
        s += n > 0 ? n : 1;
    }
    out[used] = '\0';
    return out;
}
