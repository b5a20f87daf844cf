#include "proto/config/rows.h"

static const struct option_spec json = {
    .name = "json",
    .type = OPTION_BOOL,
    .text = "off",
    .help = "print JSON, an object in each line",
};
const struct option_part row_json = {&json, 1};

static const struct option_spec data = {
    .name = "data",
    .alias = "data_path",
    .type = OPTION_STRING,
    .argument = "DATA",
    .help = "the data set: one folder per class, a folder of images or of tar archives, a tar "
            "archive, or a text file with an image's path in each line",
};
const struct option_part row_data = {&data, 1};

static const struct option_spec index_file = {
    .name = "index",
    .type = OPTION_STRING,
    .argument = "FILE",
    .help = "index made by ibot-index; default: .ibot-index in the data folder or one in the "
            "user's cache, whichever is current, else the folders are read",
};
const struct option_part row_index = {&index_file, 1};

static const struct option_spec sample_threads = {
    .name = "threads",
    .type = OPTION_INT32,
    .text = "0",
    .minimum = 0,
    .maximum = 1024,
    .help = "threads that make samples; 0: one per core",
};
const struct option_part row_sample_threads = {&sample_threads, 1};

static const struct option_spec loader_threads = {
    .name = "loader_threads",
    .type = OPTION_INT32,
    .text = "0",
    .minimum = 0,
    .maximum = 1024,
    .help = "threads of each local loader; 0: one per core, shared out over the local loaders of "
            "all ranks on this machine",
};
const struct option_part row_loader_threads = {&loader_threads, 1};
