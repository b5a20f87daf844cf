/* An SVG as a PNG, by libvips. */
#include "trainer/plot.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <vips/vips.h>

enum status plot_png(const char *out_path, const char *svg_path)
{
    enum status status = STATUS_OK;
    VipsImage *image = NULL;
    char *temporary = NULL;

    if (vips_init("ibot") != 0)
        FAIL(STATUS_IO, "libvips can't start: %s", vips_error_buffer());
    if (vips_type_find("VipsOperation", "svgload") == 0)
        FAIL(STATUS_UNSUPPORTED,
             "'%s': this libvips reads no SVG; '%s' is there for a browser or rsvg-convert",
             out_path, svg_path);
    if (asprintf(&temporary, "%s.tmp-%ld.png", out_path, (long)getpid()) < 0)
        FAIL(STATUS_NO_MEMORY, "no memory for a file name");
    if (vips_svgload(svg_path, &image, "scale", 2.0, NULL) != 0 ||
        vips_pngsave(image, temporary, NULL) != 0) {
        status = status_set(STATUS_IO, "picture '%s' can't be made of '%s': %s", out_path, svg_path,
                            vips_error_buffer());
        vips_error_clear();
        goto out;
    }
    if (rename(temporary, out_path) != 0)
        FAIL_OUT(STATUS_IO, "picture '%s' can't be put in place: %s", out_path, strerror(errno));
out:
    if (status != STATUS_OK)
        unlink(temporary);
    free(temporary);
    if (image != NULL)
        g_object_unref(image);
    return status;
}
