/* A canvas as a PNG file. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <vips/vips.h>

#include "ops/pixels/canvas.h"

enum status canvas_save_png(const struct canvas *canvas, const char *path)
{
    enum status status = STATUS_OK;
    VipsImage *image = NULL;
    void *png = NULL;
    size_t png_bytes = 0, bytes = (size_t)canvas->width * (size_t)canvas->height * 3;
    char *temporary = NULL;
    FILE *file = NULL;

    if (vips_init("ibot") != 0)
        FAIL(STATUS_IO, "libvips can't start: %s", vips_error_buffer());
    image = vips_image_new_from_memory(canvas->pixels, bytes, canvas->width, canvas->height, 3,
                                       VIPS_FORMAT_UCHAR);
    if (image == NULL || vips_pngsave_buffer(image, &png, &png_bytes, NULL) != 0) {
        status =
            status_set(STATUS_IO, "picture '%s' can't be encoded: %s", path, vips_error_buffer());
        vips_error_clear();
        goto out;
    }
    if (asprintf(&temporary, "%s.tmp-%ld", path, (long)getpid()) < 0) {
        temporary = NULL;
        FAIL_OUT(STATUS_NO_MEMORY, "no memory for a file name");
    }
    file = fopen(temporary, "wb");
    if (file == NULL || fwrite(png, 1, png_bytes, file) != png_bytes || fflush(file) != 0)
        FAIL_OUT(STATUS_IO, "picture '%s' can't be written: %s", path, strerror(errno));
    if (rename(temporary, path) != 0)
        FAIL_OUT(STATUS_IO, "picture '%s' can't be put in place: %s", path, strerror(errno));
out:
    if (file != NULL)
        fclose(file);
    if (status != STATUS_OK && temporary != NULL)
        unlink(temporary);
    free(temporary);
    g_free(png);
    if (image != NULL)
        g_object_unref(image);
    return status;
}
