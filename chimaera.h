/* chimaera.h - the whole public contract of Chimaera, a distributed task runtime in one C file.
 *
 * Usable from C11 and C++. Every name begins with chi_ or CHI_. A handle is always passed: the
 * library keeps no global state, so many nodes and clients may live in one process.
 *
 * Conventions: functions return a chi_status (0 is success, negative is one of CHI_E*) unless
 * their comment says otherwise; sizes are bytes; times are nanoseconds unless the name ends in
 * _ms or _us; strings are UTF-8 and end in NUL. */
#ifndef CHIMAERA_H
#define CHIMAERA_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define CHI_VERSION "0.1.0"
#define CHI_VERSION_NUMBER 100 /* major * 10000 + minor * 100 + patch */

/* ---- status ----------------------------------------------------------------------------- */

/* One table for code, name and text. A method may also return any positive code of its own. */
#define CHI_STATUS_TABLE(X)                                                                        \
  X(CHI_OK, 0, "success")                                                                          \
  X(CHI_EINVAL, -1, "invalid argument")                                                            \
  X(CHI_ENOMEM, -2, "out of memory")                                                               \
  X(CHI_EBUSY, -3, "busy: a queue or a reserve is full")                                           \
  X(CHI_ETIMEOUT, -4, "timed out")                                                                 \
  X(CHI_ECANCELLED, -5, "cancelled")                                                               \
  X(CHI_ENOENT, -6, "no such pool, file or object")                                                \
  X(CHI_EEXIST, -7, "already exists")                                                              \
  X(CHI_ENOMETHOD, -8, "no such method")                                                           \
  X(CHI_ENOMODULE, -9, "no such module")                                                           \
  X(CHI_EUNREACHABLE, -10, "node unreachable: the task certainly did not run")                     \
  X(CHI_EUNKNOWN, -11, "node lost: the task may have run")                                         \
  X(CHI_ESHUTDOWN, -12, "the daemon is shutting down or gone")                                     \
  X(CHI_EFORKED, -13, "handle of a parent process used after fork")                                \
  X(CHI_EIO, -14, "input/output error")                                                            \
  X(CHI_ENOSPC, -15, "no space left")                                                              \
  X(CHI_EACCES, -16, "permission denied")                                                          \
  X(CHI_ECONFLICT, -17, "conflicts with another definition")                                       \
  X(CHI_ECORRUPT, -18, "malformed data: an offset, length, id or checksum does not fit")           \
  X(CHI_ERANGE, -19, "out of range")                                                               \
  X(CHI_ETOOBIG, -20, "does not fit in the space provided")                                        \
  X(CHI_EVERSION, -21, "incompatible version")                                                     \
  X(CHI_ECONFIG, -22, "invalid configuration")                                                     \
  X(CHI_EDEADLOCK, -23, "would wait for itself")                                                   \
  X(CHI_ENODAEMON, -24, "no daemon there")                                                         \
  X(CHI_ESTALE, -25, "belongs to an earlier connection")                                           \
  X(CHI_ENOTSUP, -26, "not supported")                                                             \
  X(CHI_EOVERRUN, -27, "a method overran its stack")

typedef enum chi_status {
#define CHI_STATUS_ENUM(name, code, text) name = code,
  CHI_STATUS_TABLE(CHI_STATUS_ENUM)
#undef CHI_STATUS_ENUM
} chi_status;

/* Name ("CHI_EINVAL") and text of a code. Never NULL; codes outside the table give "unknown". */
const char *chi_status_name(int code);
const char *chi_status_text(int code);

/* What went wrong, in words: filled by functions that take one (NULL is fine everywhere). */
typedef struct chi_error {
  int code;       /* a chi_status */
  char text[400]; /* what, where, what was expected; one line without a newline */
} chi_error;

/* ---- configuration ---------------------------------------------------------------------- */

enum chi_log_level { CHI_LOG_DEBUG, CHI_LOG_INFO, CHI_LOG_WARNING, CHI_LOG_ERROR };
enum chi_lane_policy { CHI_LANE_ROUND_ROBIN, CHI_LANE_BY_PID_TID, CHI_LANE_RANDOM };
enum chi_security { CHI_SECURITY_OPTIONAL, CHI_SECURITY_REQUIRED };

#define CHI_PATH_MAX 1024
#define CHI_NAME_MAX 256 /* pool, module and instance names, with their NUL */

/* A module parameter of a compose entry, as written: checked against the module's declaration
 * when the pool is created. Nested maps are flattened with dots ("perf_metrics.iops"). */
typedef struct chi_param {
  char *name, *value;
  int line, column; /* where it was written; 0 if it was not read from a file */
} chi_param;

/* One entry of the `compose` list. */
typedef struct chi_compose_entry {
  char mod_name[CHI_NAME_MAX];
  char pool_name[CHI_PATH_MAX];
  char pool_query[16]; /* "dynamic", "local" or "broadcast" */
  uint32_t pool_major, pool_minor;
  chi_param *params;
  uint32_t param_count;
  int line, column;
} chi_compose_entry;

/* One node of the hostfile: its position is its node id. */
typedef struct chi_host {
  char name[CHI_NAME_MAX];    /* as written */
  char address[CHI_NAME_MAX]; /* the second column, else the name */
} chi_host;

/* Everything that configures a node. Fill with chi_config_init, then chi_config_load or by hand;
 * release with chi_config_free. The defaults are written in docs/configuration.md. */
typedef struct chi_config {
  uint32_t sched_threads, slow_threads; /* 0: as many as documented, at most the CPUs there are */
  uint32_t process_reaper_threads;
  int single_thread; /* 1: one thread does the work of all */
  uint64_t main_segment_size, client_data_segment_size, runtime_data_segment_size; /* budgets */
  uint32_t port, neighborhood_size;
  uint64_t bulk_max; /* bulk data that a task may bring here from another node; at most half the
                      * memory that there is when the node starts, and no less than 1 MiB */
  char hostfile[CHI_PATH_MAX]; /* empty: none */
  uint64_t wait_for_restart_ns, wait_for_restart_poll_ns;
  int security;                       /* enum chi_security: whether it may do without a key */
  char key_file[CHI_PATH_MAX];        /* own secret key; empty: messages are plain text */
  char authorized_keys[CHI_PATH_MAX]; /* directory of the nodes' public keys; with key_file */
  int log_level; /* enum chi_log_level */
  char log_file[CHI_PATH_MAX]; /* empty: standard error */
  uint64_t stack_size;
  uint32_t queue_depth;
  int lane_policy; /* enum chi_lane_policy */
  uint64_t heartbeat_interval_ns, task_timeout_ns, spin_window_ns;
  /* The main segment's name is, with the port, the instance's name. Empty: the default of the
   * environment, which chi_config_load has filled in. */
  char main_segment_name[CHI_NAME_MAX];
  char client_data_segment_name[CHI_NAME_MAX], runtime_data_segment_name[CHI_NAME_MAX];
  chi_compose_entry *compose;
  uint32_t compose_count;
  chi_host *hosts; /* from the hostfile; none: this node alone, on the loopback address */
  uint32_t host_count;
  /* Own position among them. UINT32_MAX, the default: chi_node_open finds it, by comparing the
   * hosts' addresses with those of this machine, of which exactly one must match. */
  uint32_t node;
  /* Where chi_node_open writes everything the node hears and does, to be replayed; with it goes
   * single_thread. Empty: nowhere. No key of a file. */
  char record_file[CHI_PATH_MAX];
} chi_config;

/* Receives each error, warning and note of a configuration: level is a chi_log_level, text is one
 * line "FILE:LINE:COLUMN: what is wrong and what was expected". */
typedef void chi_config_report(void *arg, int level, const char *text);

/* Fills *config with the defaults. Owns no memory until something is added or loaded. */
void chi_config_init(chi_config *config);
/* Releases what *config owns and makes it as chi_config_init does. */
void chi_config_free(chi_config *config);

/* Adds an entry to `compose` and gives its address, valid until the next one is added; parameters
 * follow with chi_config_add_param. CHI_EINVAL: a name or the query is not one, or the null pool;
 * CHI_EEXIST: another entry has this id or name; CHI_ERANGE: too many; CHI_ENOMEM. */
int chi_config_add_pool(chi_config *config, const char *mod_name, const char *pool_name,
                        const char *pool_query, uint32_t major, uint32_t minor,
                        chi_compose_entry **entry);
/* Copies both texts. CHI_EINVAL, CHI_EEXIST, CHI_ERANGE and CHI_ENOMEM as above. */
int chi_config_add_param(chi_compose_entry *entry, const char *name, const char *value);
/* Adds a node; address NULL: the name is the address. CHI_EINVAL, CHI_ERANGE, CHI_ENOMEM. */
int chi_config_add_host(chi_config *config, const char *name, const char *address);

/* Checks every value against the bounds of docs/configuration.md. CHI_ECONFIG, and in *err the
 * first key that breaks them; for a configuration that was filled by hand. */
int chi_config_check(const chi_config *config, chi_error *err);
/* Writes the configuration as YAML that chi_config_load reads back to the same values, in pieces
 * of text. What is not set is a comment that names the default. The hosts are not written: they
 * are in the hostfile. */
void chi_config_print(const chi_config *config, void (*put)(void *arg, const char *text),
                      void *arg);

/* Sizes: bytes, or a number with K, M, G or T (1024-based, any case, optional B or iB), such as
 * "1.5g". A fraction of a byte is dropped. CHI_EINVAL: not a size; CHI_ERANGE: more than
 * 2^64 - 1, or less than one byte though not zero. *out is then untouched. */
int chi_parse_size(const char *text, uint64_t *out);
/* Durations: a number in units of unit_ns nanoseconds, or with ns, us, ms or s, such as "0.5s".
 * Errors as chi_parse_size. */
int chi_parse_duration(const char *text, uint64_t unit_ns, uint64_t *out);

#define CHI_FORMAT_MAX 24 /* room for any text of the next two functions */
/* Writes the value with the largest unit that gives a whole number, so that parsing it gives the
 * same value: "512M", "1500ms". Return buf. */
const char *chi_format_size(uint64_t bytes, char *buf, size_t size);
const char *chi_format_duration(uint64_t ns, char *buf, size_t size);

#ifndef CHI_OMIT_REAL
/* Reads a YAML file of any generation over what *config holds, the hostfile it names, and `node`
 * from $CHI_NODE if that is set.
 * path NULL: $CHI_SERVER_CONF, else $WRP_RUNTIME_CONF, else ~/.chimaera/chimaera.yaml if it is
 * there, else nothing is read. Reports every problem through report (may be NULL), the first
 * error also in *err. Returns CHI_ECONFIG, CHI_ENOENT, CHI_EACCES, CHI_EIO or CHI_ENOMEM; on
 * failure *config still must be freed. */
int chi_config_load(chi_config *config, const char *path, chi_config_report *report, void *arg,
                    chi_error *err);
/* The file that chi_config_load reads when path is NULL. CHI_ENOENT: none; CHI_ETOOBIG. */
int chi_config_path(char *path, size_t size);

#define CHI_KEY_MAX 41 /* bytes of a key's text with its NUL */
/* Makes a pair of keys in two files that must not exist: the secret one, for networking.key_file,
 * that only this user can read, and the public one, for networking.authorized_keys under the name
 * NODE.pub. Gives the public key, of CHI_KEY_MAX bytes. CHI_EEXIST, CHI_EACCES, CHI_ENOENT,
 * CHI_EIO, CHI_ENOTSUP: ZeroMQ was built without CURVE; then no file is there that wasn't. */
int chi_keygen(const char *secret_file, const char *public_file, char *key, chi_error *err);
#endif

/* ---- tasks: declared once --------------------------------------------------------------- */

typedef struct chi_pool_id {
  uint32_t major, minor; /* written "major.minor"; 0.0 is null, 1.0 the admin pool */
} chi_pool_id;

enum chi_query_mode {
  CHI_QUERY_LOCAL,     /* the container of this node */
  CHI_QUERY_ID,        /* container a */
  CHI_QUERY_HASH,      /* container a mod their number */
  CHI_QUERY_RANGE,     /* containers a .. a + b - 1 */
  CHI_QUERY_BROADCAST, /* every container */
  CHI_QUERY_PHYSICAL,  /* the container of node a */
  CHI_QUERY_DYNAMIC    /* the module's schedule function chooses one of the others */
};

/* Where a task runs. Zeroed: local. */
typedef struct chi_query {
  uint32_t mode; /* enum chi_query_mode */
  uint32_t a, b;
  uint32_t c; /* result: how many of several, or remote, containers failed */
} chi_query;

enum chi_task_flag {
  CHI_TASK_PERIODIC = 1, /* runs again period_us after each run, until cancelled or non-zero */
  /* Fire-and-forget: freed by the library when it has completed. A subtask of this kind outlives
   * its parent, and so must not be given memory that doesn't, such as the parent's own buffers
   * (CHI_EINVAL) or those of the client's task further up (not noticed). */
  CHI_TASK_FORGET = 2,
  CHI_TASK_FORCE_NET = 4, /* goes through the network code even when the target is local */
  CHI_TASK_FAILURES = 8   /* set by chi_task_new_failures and chi_subtask_new_failures alone */
};

/* The header every task begins with. Set pool, query and what else is needed between allocation
 * and submission; everything else is zero by default. From submission to completion the task and
 * its bulk buffers belong to the runtime and must not be written. */
typedef struct chi_task {
  chi_pool_id pool;
  chi_query query;
  uint32_t method;      /* set by allocation */
  uint32_t flags;       /* enum chi_task_flag */
  int32_t rc;           /* result: 0, a CHI_E* code, or a positive code of the method's own */
  uint32_t compute_us;  /* estimate of CPU time beside io_size; 50 us in all goes to slow workers */
  uint64_t io_size;     /* estimate of bytes moved */
  uint32_t deadline_ms; /* from submission; then it is cancelled with CHI_ETIMEOUT; 0: none */
  uint32_t period_us;   /* of a periodic task */
  uint64_t id;          /* the library's own, from submission on */
} chi_task;

/* A buffer that travels by reference: shared memory in a client's task, any memory in a subtask. */
typedef struct chi_bulk {
  void *data;    /* where this process sees it */
  uint64_t size; /* bytes in use: at most what was allocated */
  uint64_t ref;  /* its place in shared memory; 0 in a subtask */
} chi_bulk;

/* Which containers failed, of a task for several or for another node's: see chi_failures_of. */
#define CHI_FAILURES_MOST 16
typedef struct chi_failures {
  uint32_t asked, failed; /* containers; 0 asked: it ran here alone, or nowhere: rc says all */
  uint32_t listed;        /* of those that failed, the first by number: */
  struct chi_failed {
    uint32_t container;
    int32_t rc;
  } item[CHI_FAILURES_MOST];
} chi_failures;

enum chi_dir { CHI_DIR_IN = 1, CHI_DIR_OUT = 2, CHI_DIR_INOUT = 3 };
enum chi_kind {
  CHI_KIND_u8 = 1, CHI_KIND_u16, CHI_KIND_u32, CHI_KIND_u64,
  CHI_KIND_i8, CHI_KIND_i16, CHI_KIND_i32, CHI_KIND_i64,
  CHI_KIND_f64,
  CHI_KIND_bool,     /* uint8_t, 0 or 1; text: true, false */
  CHI_KIND_size,     /* uint64_t; text with K, M, G, T */
  CHI_KIND_duration, /* uint64_t nanoseconds; text with ns, us, ms, s */
  CHI_KIND_pool,     /* chi_pool_id; text "300.0" */
  CHI_KIND_str,      /* char[n], always ends in NUL */
  CHI_KIND_object,   /* struct elem */
  CHI_KIND_array,    /* struct elem[n] and uint32_t NAME_count */
  CHI_KIND_bulk      /* chi_bulk; IN: read by the method, OUT: written by it */
};

struct chi_type;
/* One field of a declared struct. */
typedef struct chi_field {
  const char *name;
  uint8_t dir, kind;            /* enum chi_dir, enum chi_kind */
  uint32_t offset;              /* in the struct */
  uint32_t size;                /* of the scalar, of the char array, of one element */
  uint32_t room;                /* elements of an array, else 1 */
  uint32_t count_offset;        /* of NAME_count in an array, else 0 */
  const struct chi_type *elem;  /* of an object or array */
  const char *preset;           /* default as text; "" means it must be given */
} chi_field;

/* A declared struct: a task (its method id), an array element or module parameters (id 0). */
typedef struct chi_type {
  const char *name;
  uint32_t id, size, field_count;
  const chi_field *fields;
} chi_type;

/* CHI_TASK(calc_add, 10, CALC_ADD) makes `struct calc_add`, `calc_add_type`, its field table from
 *
 *   #define CALC_ADD(X, T) X(T, IN, u64, a) X(T, IN, u64, b) X(T, OUT, u64, sum)
 *
 * Each field is X(T, direction, kind, name [, default as a string]); a str is
 * X(T, IN, str, name, bytes [, default]), an array X(T, OUT, array, name, elem, most) and an object
 * X(T, IN, object, name, elem), where `elem` was declared by CHI_STRUCT(elem, FIELDS) without
 * arrays and bulks. CHI_STRUCT also declares module parameters. */
#define CHI_TASK(type, method_id, FIELDS)                                                          \
  struct type {                                                                                    \
    chi_task task;                                                                                 \
    FIELDS(CHI_FIELD_MEMBER, type)                                                                 \
  };                                                                                               \
  CHI_TYPE_TABLE(type, method_id, FIELDS)
#define CHI_STRUCT(type, FIELDS)                                                                   \
  struct type {                                                                                    \
    FIELDS(CHI_FIELD_MEMBER, type)                                                                 \
  };                                                                                               \
  CHI_TYPE_TABLE(type, 0, FIELDS)
#define CHI_NO_FIELDS(X, T)

#define CHI_UNUSED __attribute__((unused))
#define CHI_TYPE_TABLE(type, method_id, FIELDS)                                                    \
  CHI_UNUSED static const chi_field type##_fields[] = {                                            \
      FIELDS(CHI_FIELD_ROW, type){0, 0, 0, 0, 0, 0, 0, 0, 0}};                                     \
  CHI_UNUSED static const chi_type type##_type = {                                                 \
      #type, method_id, (uint32_t)sizeof(struct type),                                             \
      (uint32_t)(sizeof type##_fields / sizeof type##_fields[0]) - 1, type##_fields};
#define CHI_FIRST(...) CHI_FIRST_(__VA_ARGS__, 0)
#define CHI_FIRST_(a, ...) a
#define CHI_SECOND(...) CHI_SECOND_(__VA_ARGS__, "", "")
#define CHI_SECOND_(a, b, ...) b
#define CHI_THIRD(...) CHI_THIRD_(__VA_ARGS__, "", "", "")
#define CHI_THIRD_(a, b, c, ...) c
#define CHI_TEXT(x) CHI_TEXT_(x)
#define CHI_TEXT_(x) #x

#define CHI_FIELD_MEMBER(T, dir, kind, ...) CHI_MEMBER_##kind(__VA_ARGS__)
#define CHI_MEMBER_u8(...) uint8_t CHI_FIRST(__VA_ARGS__);
#define CHI_MEMBER_u16(...) uint16_t CHI_FIRST(__VA_ARGS__);
#define CHI_MEMBER_u32(...) uint32_t CHI_FIRST(__VA_ARGS__);
#define CHI_MEMBER_u64(...) uint64_t CHI_FIRST(__VA_ARGS__);
#define CHI_MEMBER_i8(...) int8_t CHI_FIRST(__VA_ARGS__);
#define CHI_MEMBER_i16(...) int16_t CHI_FIRST(__VA_ARGS__);
#define CHI_MEMBER_i32(...) int32_t CHI_FIRST(__VA_ARGS__);
#define CHI_MEMBER_i64(...) int64_t CHI_FIRST(__VA_ARGS__);
#define CHI_MEMBER_f64(...) double CHI_FIRST(__VA_ARGS__);
#define CHI_MEMBER_bool(...) uint8_t CHI_FIRST(__VA_ARGS__);
#define CHI_MEMBER_size(...) uint64_t CHI_FIRST(__VA_ARGS__);
#define CHI_MEMBER_duration(...) uint64_t CHI_FIRST(__VA_ARGS__);
#define CHI_MEMBER_pool(...) chi_pool_id CHI_FIRST(__VA_ARGS__);
#define CHI_MEMBER_str(...) char CHI_FIRST(__VA_ARGS__)[CHI_SECOND(__VA_ARGS__)];
#define CHI_MEMBER_bulk(...) chi_bulk CHI_FIRST(__VA_ARGS__);
#define CHI_MEMBER_object(name, elem_type) struct elem_type name;
#define CHI_MEMBER_array(name, elem_type, most)                                                    \
  uint32_t name##_count;                                                                           \
  struct elem_type name[most];

#define CHI_FIELD_ROW(T, dir, kind, ...)                                                           \
  CHI_ROW_##kind(T, CHI_DIR_##dir, CHI_KIND_##kind, __VA_ARGS__)
#define CHI_ROW_SCALAR(T, dir, kind, name, preset)                                                 \
  {CHI_TEXT(name), dir, kind, (uint32_t)offsetof(struct T, name),                                  \
   (uint32_t)sizeof(((struct T *)0)->name), 1, 0, 0, preset},
#define CHI_ROW_PLAIN(T, dir, kind, ...)                                                           \
  CHI_ROW_SCALAR(T, dir, kind, CHI_FIRST(__VA_ARGS__), CHI_SECOND(__VA_ARGS__))
#define CHI_ROW_u8 CHI_ROW_PLAIN
#define CHI_ROW_u16 CHI_ROW_PLAIN
#define CHI_ROW_u32 CHI_ROW_PLAIN
#define CHI_ROW_u64 CHI_ROW_PLAIN
#define CHI_ROW_i8 CHI_ROW_PLAIN
#define CHI_ROW_i16 CHI_ROW_PLAIN
#define CHI_ROW_i32 CHI_ROW_PLAIN
#define CHI_ROW_i64 CHI_ROW_PLAIN
#define CHI_ROW_f64 CHI_ROW_PLAIN
#define CHI_ROW_bool CHI_ROW_PLAIN
#define CHI_ROW_size CHI_ROW_PLAIN
#define CHI_ROW_duration CHI_ROW_PLAIN
#define CHI_ROW_pool CHI_ROW_PLAIN
#define CHI_ROW_bulk CHI_ROW_PLAIN
#define CHI_ROW_str(T, dir, kind, ...)                                                             \
  CHI_ROW_SCALAR(T, dir, kind, CHI_FIRST(__VA_ARGS__), CHI_THIRD(__VA_ARGS__))
#define CHI_ROW_object(T, dir, kind, name, elem_type)                                              \
  {CHI_TEXT(name), dir, kind, (uint32_t)offsetof(struct T, name),                                  \
   (uint32_t)sizeof(struct elem_type), 1, 0, &elem_type##_type, ""},
#define CHI_ROW_array(T, dir, kind, name, elem_type, most)                                         \
  {CHI_TEXT(name), dir, kind, (uint32_t)offsetof(struct T, name),                                  \
   (uint32_t)sizeof(struct elem_type), most, (uint32_t)offsetof(struct T, name##_count),           \
   &elem_type##_type, ""},

/* ---- modules ---------------------------------------------------------------------------- */

/* What a method runs with: valid only inside the call it was passed to, on its own stack. */
typedef struct chi_ctx chi_ctx;

enum chi_method_flag { CHI_METHOD_IDEMPOTENT = 1 }; /* may be run again after a loss, twice */

typedef struct chi_method {
  const chi_type *type;
  int (*run)(chi_ctx *ctx, void *self, void *task);
  uint32_t flags;      /* enum chi_method_flag */
  uint32_t compute_us; /* declared cost, corrected by measurement */
} chi_method;

/* CHI_METHODS(calc, CALC_METHODS) makes `calc_methods` from
 *
 *   #define CALC_METHODS(M, S) M(S, calc_add) M(S, calc_sum, CHI_METHOD_IDEMPOTENT)
 *
 * where each task `calc_add` is run by
 *   static int calc_add_run(chi_ctx *ctx, struct calc *self, struct calc_add *t);
 * defined before it. A third argument sets flags. */
#define CHI_METHODS(state, LIST)                                                                   \
  LIST(CHI_METHOD_THUNK, state)                                                                    \
  static const chi_method state##_methods[] = {LIST(CHI_METHOD_ROW, state){0, 0, 0, 0}};
#define CHI_METHOD_THUNK(state, ...) CHI_METHOD_THUNK_(state, CHI_FIRST(__VA_ARGS__))
#define CHI_METHOD_THUNK_(state, type) CHI_METHOD_THUNK__(state, type)
#define CHI_METHOD_THUNK__(state, type)                                                            \
  static int type##_thunk(chi_ctx *ctx, void *self, void *task)                                    \
  {                                                                                                \
    return type##_run(ctx, (struct state *)self, (struct type *)task);                             \
  }
#define CHI_METHOD_ROW(state, ...)                                                                 \
  CHI_METHOD_ROW_(CHI_FIRST(__VA_ARGS__), CHI_SECOND_(__VA_ARGS__, 0, 0))
#define CHI_METHOD_ROW_(type, flags) CHI_METHOD_ROW__(type, flags)
#define CHI_METHOD_ROW__(type, flags) {&type##_type, type##_thunk, flags, 0},

enum chi_module_flag {
  /* Methods of a container may run on several workers at once and guard themselves with the locks
   * below. Simulation steps one worker at a time: it shows orders of blocking, not data races. */
  CHI_MODULE_PARALLEL = 1,
  /* Its code keeps variables outside of containers, on purpose: `chimaera sim` doesn't warn. */
  CHI_MODULE_STATICS = 2
};

#define CHI_MODULE_VERSION 1
/* The code behind pools. A shared object exports `const chi_module *chi_module_entry(void)`; a
 * program may pass modules when it opens a node. All of it must outlive the node. A container's
 * methods run one at a time, interleaving only where they block, unless declared parallel. */
typedef struct chi_module {
  uint32_t version; /* CHI_MODULE_VERSION */
  uint32_t flags;   /* enum chi_module_flag */
  const char *name;
  uint32_t state_size;       /* of a container's state: zeroed before create */
  const chi_type *params;    /* declared by CHI_STRUCT; NULL: takes none */
  const chi_method *methods; /* ended by a row without type */
  /* All may be NULL. create may block; a non-zero return fails the pool, and destroy is not
   * called. destroy runs after the last task of the container has ended. */
  int (*create)(chi_ctx *ctx, void *self, const void *params);
  void (*destroy)(chi_ctx *ctx, void *self);
  /* For query dynamic: chooses the real query before the task is routed. Must not block. */
  int (*schedule)(chi_ctx *ctx, void *self, const void *task, chi_query *query);
  /* Adds the OUT fields of one answer to those gathered so far, in order of containers; NULL: the
   * last one is copied. The ref of a bulk field of `into` is the room at its data. */
  int (*aggregate)(uint32_t method, void *into, const void *from);
  void (*node_failure)(chi_ctx *ctx, void *self, uint32_t node);
  void (*recover)(chi_ctx *ctx, void *self, uint32_t node);
  /* Writes one JSON object of the module's own figures, shorter than room, for admin's monitor;
   * returns its length, or less than 0. Runs as a method does. */
  int (*monitor)(chi_ctx *ctx, void *self, char *json, size_t room);
  /* For containers that move to another node; both may block, and run while no other task is in
   * the container. save writes the state to data if `room` bytes are enough, and returns how many
   * are needed; load builds a container from them, instead of create. The one that was saved is
   * ended by destroy when the other serves. */
  int64_t (*save)(chi_ctx *ctx, void *self, void *data, uint64_t room);
  int (*load)(chi_ctx *ctx, void *self, const void *params, const void *data, uint64_t size);
} chi_module;

typedef const chi_module *chi_module_entry_fn(void);

/* Inside a method. Times are on the node's monotonic clock. Functions that may block say so: while
 * a method is blocked, other tasks run, on the same container too. A blocking function returns
 * CHI_ECANCELLED or CHI_ETIMEOUT at once when the task was cancelled or its deadline passed;
 * the method then cleans up and returns. */
uint64_t chi_now(chi_ctx *ctx);
uint64_t chi_random(chi_ctx *ctx);
int chi_cancelled(chi_ctx *ctx); /* CHI_OK, CHI_ECANCELLED or CHI_ETIMEOUT */
chi_pool_id chi_self_pool(chi_ctx *ctx);
uint32_t chi_self_container(chi_ctx *ctx);
uint32_t chi_self_node(chi_ctx *ctx);
uint32_t chi_node_count(chi_ctx *ctx);
const char *chi_self_pool_name(chi_ctx *ctx);
void chi_log(chi_ctx *ctx, int level, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* Memory of the node: NULL when there is none. size must be what was asked for. */
void *chi_alloc(chi_ctx *ctx, size_t size);
void chi_free(chi_ctx *ctx, void *p, size_t size);

int chi_yield(chi_ctx *ctx);              /* lets other tasks run; may block */
int chi_sleep(chi_ctx *ctx, uint64_t ns); /* blocks */

/* Subtasks. A new one is zeroed, private memory of the parent, with the method set. After submit it
 * belongs to the runtime until wait returns something else than CHI_ETIMEOUT of the wait itself.
 * One for a pool in creation begins when that is ready (CHI_ENOENT if it fails); CHI_EDEADLOCK: it
 * is the pool's own create that would wait for it. With CHI_TASK_FORGET it may be submitted there.
 * Those still running when the method returns are waited for; all are freed at its end. */
void *chi_subtask_new(chi_ctx *ctx, const chi_type *type); /* NULL: no memory */
/* The same with room for chi_failures_of. */
void *chi_subtask_new_failures(chi_ctx *ctx, const chi_type *type);
int chi_subtask_submit(chi_ctx *ctx, void *task);
/* Blocks until it has completed; returns its rc, or CHI_ETIMEOUT while it still runs (its rc is
 * then still unset: see chi_subtask_done). timeout_ns 0: as long as it takes. */
int chi_subtask_wait(chi_ctx *ctx, void *task, uint64_t timeout_ns);
int chi_subtask_done(chi_ctx *ctx, const void *task); /* 1 if it has completed */
int chi_subtask_wait_all(chi_ctx *ctx); /* the first non-zero rc, in order of submission */
int chi_subtask_cancel(chi_ctx *ctx, void *task);
void chi_subtask_free(chi_ctx *ctx, void *task); /* one that is running is cancelled instead */
int chi_call(chi_ctx *ctx, void *task);          /* submit and wait; returns its rc */

/* Locks of tasks, not of threads: zeroed is unlocked; they live in a container's state. Tasks with
 * the same root (a task and its subtasks) pass through what one of their group holds. First come,
 * first served; writers are not overtaken by later readers. timeout_ns 0: wait without limit. */
typedef struct chi_mutex {
  uint64_t opaque[6];
} chi_mutex;
typedef struct chi_rwlock {
  uint64_t opaque[8];
} chi_rwlock;
typedef struct chi_event {
  uint64_t opaque[4];
} chi_event;
int chi_mutex_lock(chi_ctx *ctx, chi_mutex *m, uint64_t timeout_ns);
int chi_mutex_trylock(chi_ctx *ctx, chi_mutex *m); /* CHI_EBUSY if held by another group */
int chi_mutex_unlock(chi_ctx *ctx, chi_mutex *m);  /* CHI_EINVAL if not held by this group */
int chi_rwlock_rdlock(chi_ctx *ctx, chi_rwlock *l, uint64_t timeout_ns);
int chi_rwlock_wrlock(chi_ctx *ctx, chi_rwlock *l, uint64_t timeout_ns);
int chi_rwlock_unlock(chi_ctx *ctx, chi_rwlock *l);
int chi_event_wait(chi_ctx *ctx, chi_event *e, uint64_t timeout_ns); /* until it is set */
void chi_event_set(chi_ctx *ctx, chi_event *e);                      /* wakes all; stays set */
void chi_event_reset(chi_ctx *ctx, chi_event *e);

/* Files of the node, which simulation replaces. All block. Offsets and sizes are bytes; read and
 * write transfer everything or fail, except that read returns less at the end of the file.
 * Results below 0 are codes. Direct files need offset, size and memory aligned to 4096. */
typedef struct chi_file chi_file;
enum chi_file_flag {
  CHI_FILE_CREATE = 1,    /* make it if it isn't there */
  CHI_FILE_EXCLUSIVE = 2, /* with CREATE: CHI_EEXIST if it is there */
  CHI_FILE_DIRECT = 4,    /* past the page cache where the file system can */
  CHI_FILE_READONLY = 8,
  CHI_FILE_LOCK = 16 /* CHI_EBUSY if another open holds it */
};
int chi_file_open(chi_ctx *ctx, const char *path, uint32_t flags, chi_file **out);
int chi_file_close(chi_ctx *ctx, chi_file *file);
int64_t chi_file_read(chi_ctx *ctx, chi_file *file, void *buf, uint64_t size, uint64_t offset);
int64_t chi_file_write(chi_ctx *ctx, chi_file *file, const void *buf, uint64_t size,
                       uint64_t offset);
int chi_file_sync(chi_ctx *ctx, chi_file *file); /* earlier writes and the size are durable */
int64_t chi_file_size(chi_ctx *ctx, chi_file *file);
int chi_file_truncate(chi_ctx *ctx, chi_file *file, uint64_t size);
int chi_file_rename(chi_ctx *ctx, const char *from, const char *to); /* durable with dirsync */
int chi_file_remove(chi_ctx *ctx, const char *path);
int chi_file_dirsync(chi_ctx *ctx, const char *path); /* of the directory that holds path */
int64_t chi_file_space(chi_ctx *ctx, const char *path); /* bytes free on its file system */

/* ---- clients ---------------------------------------------------------------------------- */

typedef struct chi_client chi_client; /* a connection to a daemon: used by any threads */
typedef struct chi_queue chi_queue;   /* a way to submit: used by one thread at a time */

#ifndef CHI_OMIT_REAL
/* Attaches to the daemon of an instance on this host: "NAME:PORT", ":PORT" or "NAME" as printed by
 * the daemon, or the path of its socket; NULL: the instance that the configuration names. Fails at
 * once, naming what was looked for, with CHI_ENODAEMON; CHI_EVERSION, CHI_EACCES, CHI_ENOMEM. */
int chi_client_open(const char *instance, chi_client **out, chi_error *err);
#endif
/* Closes what is left: queues, tasks and buffers of this client become invalid. */
void chi_client_close(chi_client *client);
/* After CHI_ESHUTDOWN: attaches to the same instance again, waiting for it up to timeout_ns. Queues
 * open themselves anew once what was in flight has been waited for or reaped: it ended with
 * CHI_ESHUTDOWN. Tasks and buffers allocated before can be read and freed, and submitting them
 * gives CHI_ESTALE. */
int chi_client_reconnect(chi_client *client, uint64_t timeout_ns, chi_error *err);

/* The queue's depth is the daemon's queue_depth: so many tasks may be in flight. */
int chi_queue_open(chi_client *client, chi_queue **out, chi_error *err);
void chi_queue_close(chi_queue *queue);

/* A zeroed task in shared memory with its method set; NULL when memory or the budget is spent
 * (chi_queue_error tells). Freed by its owner: before submission or after completion. */
void *chi_task_new(chi_queue *queue, const chi_type *type);
/* The same with room for chi_failures_of. */
void *chi_task_new_failures(chi_queue *queue, const chi_type *type);
/* Which containers failed, of a task or subtask of that type made with such room, when it has
 * completed; valid as long as the task. NULL: it was made without. One that is submitted again and
 * refused before it could run still has the list of the run before. */
const chi_failures *chi_failures_of(const chi_type *type, const void *task);
int chi_task_free(chi_queue *queue, void *task); /* CHI_EBUSY while it is in flight */
#define CHI_NEW(queue, type) ((struct type *)chi_task_new((queue), &type##_type))
/* A buffer of shared memory, aligned to 64 bytes, to 4096 from 4096 bytes on. Not zeroed. */
int chi_bulk_alloc(chi_queue *queue, uint64_t size, chi_bulk *out);
int chi_bulk_free(chi_queue *queue, chi_bulk *bulk);
int chi_queue_error(chi_queue *queue, chi_error *err); /* why the last call on it failed */

/* Gives a task to the daemon. CHI_EBUSY: the lane or the queue is full (nothing was submitted);
 * CHI_EINVAL, CHI_ESTALE, CHI_ESHUTDOWN, CHI_EFORKED. */
int chi_submit(chi_queue *queue, void *task);
/* Submits tasks in order; returns how many, or a code if not even the first could be. */
int chi_submit_many(chi_queue *queue, void *const *tasks, uint32_t count);
/* Waits for completion and returns the task's rc. timeout_ns UINT64_MAX: no limit. CHI_ETIMEOUT
 * with chi_task_done() == 0 means that it goes on: a timed-out wait is not a completion. */
int chi_wait(chi_queue *queue, void *task, uint64_t timeout_ns);
int chi_task_done(chi_queue *queue, const void *task); /* 1: completed (or never submitted) */
/* Waits until one of the tasks has completed; its index in *which. */
int chi_wait_any(chi_queue *queue, void *const *tasks, uint32_t count, uint64_t timeout_ns,
                 uint32_t *which);
int chi_wait_all(chi_queue *queue, void *const *tasks, uint32_t count, uint64_t timeout_ns);
int chi_run(chi_queue *queue, void *task); /* submit and wait without limit; returns its rc */
/* Hands out up to room finished tasks that no wait has returned yet; returns how many. Callbacks
 * run inside this and the waits only; a task with a callback is not handed out. */
int chi_reap(chi_queue *queue, void **tasks, uint32_t room);
typedef void chi_done_fn(void *arg, chi_queue *queue, void *task);
int chi_submit_callback(chi_queue *queue, void *task, chi_done_fn *done, void *arg);
/* Asks for the end of a submitted task. It still completes exactly once, when its body ends. */
int chi_cancel(chi_queue *queue, void *task);
/* Gives the task away: it is cancelled, and freed by the library when it has completed. */
int chi_abandon(chi_queue *queue, void *task);
/* For an event loop of one's own: after chi_queue_arm() the descriptor is readable when a
 * completion arrives or the daemon is gone. chi_queue_arm returns 1 if there is something to reap
 * already (then it isn't armed). After it became readable: chi_reap, then arm again. */
int chi_queue_fd(chi_queue *queue);
int chi_queue_arm(chi_queue *queue);

/* The pool of that name, ready or in creation. CHI_ENOENT. */
int chi_pool_find(chi_queue *queue, const char *name, chi_pool_id *out);
/* Creates a pool, or finds the one that is there: by name, then by id (CHI_ECONFLICT when it has
 * another definition). *id in: the id wanted; out: the id it has. Parameters are NAME, VALUE texts
 * checked against the module's declaration. */
int chi_pool_create(chi_queue *queue, const char *mod_name, const char *pool_name,
                    const chi_param *params, uint32_t count, chi_pool_id *id, chi_error *err);
int chi_pool_destroy(chi_queue *queue, chi_pool_id id, chi_error *err);

/* ---- built-in modules ------------------------------------------------------------------- */

/* admin: pool 1.0, named "admin", on every node. */
#ifdef __cplusplus
#define CHI_ADMIN_POOL (chi_pool_id{1, 0})
#else
#define CHI_ADMIN_POOL ((chi_pool_id){1, 0})
#endif

/* Get-or-create: by name, then by id; 0.0 is refused. params: one NAME=VALUE a line. pool_query
 * "local": a pool of this node alone, with one container; else of all nodes, with one on each.
 * Returns the first code that is not 0 by container; nodes that cannot be reached build theirs when
 * they can. */
#define CHI_ADMIN_GET_OR_CREATE_POOL(X, T)                                                         \
  X(T, IN, str, mod_name, 256) X(T, IN, str, pool_name, 1024) X(T, IN, str, params, 2048, "\n")    \
  X(T, INOUT, pool, pool_id) X(T, IN, str, pool_query, 16, "dynamic") X(T, OUT, bool, created)     \
  X(T, OUT, str, error_message, 400)
CHI_TASK(chi_admin_get_or_create_pool, 10, CHI_ADMIN_GET_OR_CREATE_POOL)
/* Waits for the tasks of the pool that have been accepted, then destroys its containers. */
#define CHI_ADMIN_DESTROY_POOL(X, T)                                                               \
  X(T, IN, pool, pool_id) X(T, IN, u32, flags, "0") X(T, OUT, str, error_message, 400)
CHI_TASK(chi_admin_destroy_pool, 11, CHI_ADMIN_DESTROY_POOL)
/* Stops the node that runs it. With CHI_STOP_WAIT it is answered not at once, but when no work is
 * left or what is left after the grace period is cancelled: so many tasks. CHI_EBUSY: it stops, but
 * too many wait for that already. */
#define CHI_STOP_WAIT 1u
#define CHI_ADMIN_STOP_RUNTIME(X, T)                                                               \
  X(T, IN, u32, flags, "0") X(T, IN, u32, grace_period_ms, "5000") X(T, OUT, u64, cancelled)
CHI_TASK(chi_admin_stop_runtime, 12, CHI_ADMIN_STOP_RUNTIME)
/* Returns when no work is left; how many tasks had been completed by then. */
#define CHI_ADMIN_FLUSH(X, T) X(T, OUT, u64, total_work_done)
CHI_TASK(chi_admin_flush, 13, CHI_ADMIN_FLUSH)
/* One JSON object: workers, lanes, pools, memory. size: its length, even if it did not fit the
 * buffer (CHI_ETOOBIG). */
#define CHI_ADMIN_MONITOR(X, T) X(T, OUT, bulk, json) X(T, OUT, u64, size)
CHI_TASK(chi_admin_monitor, 18, CHI_ADMIN_MONITOR)
#define CHI_ADMIN_FIND_POOL(X, T)                                                                  \
  X(T, IN, str, pool_name, 1024) X(T, OUT, pool, pool_id) X(T, OUT, str, mod_name, 256)
CHI_TASK(chi_admin_find_pool, 19, CHI_ADMIN_FIND_POOL)
/* The declarations of a pool's methods as text, in the form of docs/modules.md. size as above. */
#define CHI_ADMIN_DESCRIBE(X, T) X(T, IN, pool, pool_id) X(T, OUT, bulk, text) X(T, OUT, u64, size)
CHI_TASK(chi_admin_describe, 20, CHI_ADMIN_DESCRIBE)
/* Moves a container of a pool to another node, with its state; to be asked of the node where it is
 * now. CHI_ENOTSUP: its module has no save and load; CHI_EUNKNOWN: the target was lost, and perhaps
 * the container with it; after other errors it is where it was. Its periodic tasks end with
 * CHI_ECANCELLED. */
#define CHI_ADMIN_MIGRATE(X, T)                                                                    \
  X(T, IN, pool, pool_id) X(T, IN, u32, container) X(T, IN, u32, node)                             \
  X(T, OUT, str, error_message, 400)
CHI_TASK(chi_admin_migrate, 22, CHI_ADMIN_MIGRATE)

/* bdev: a block device on a file (the pool's name is its path) or in memory. */
#define CHI_BLOCK_FIELDS(X, T) X(T, IN, size, offset) X(T, IN, size, size) X(T, IN, u32, type, "0")
CHI_STRUCT(chi_block, CHI_BLOCK_FIELDS)
#define CHI_BDEV_BLOCKS 64
#define CHI_BDEV_PARAMS(X, T)                                                                      \
  X(T, IN, size, capacity) X(T, IN, str, bdev_type, 8) X(T, IN, u32, io_depth, "16")               \
  X(T, IN, u32, alignment, "4096") X(T, IN, f64, perf_metrics_read_bandwidth_mbps, "0")            \
  X(T, IN, f64, perf_metrics_write_bandwidth_mbps, "0")                                            \
  X(T, IN, f64, perf_metrics_read_latency_us, "0")                                                 \
  X(T, IN, f64, perf_metrics_write_latency_us, "0") X(T, IN, f64, perf_metrics_iops, "0")
CHI_STRUCT(chi_bdev_params, CHI_BDEV_PARAMS)
/* Any size up to what is free, as extents: the first CHI_BDEV_BLOCKS in blocks, further ones in the
 * buffer `more` as an array of struct chi_block. block_total counts both; when they do not fit:
 * CHI_ETOOBIG, block_total tells the need and nothing is allocated. */
#define CHI_BDEV_ALLOCATE(X, T)                                                                    \
  X(T, IN, size, size) X(T, OUT, array, blocks, chi_block, CHI_BDEV_BLOCKS)                        \
  X(T, OUT, u64, block_total) X(T, OUT, bulk, more)
CHI_TASK(chi_bdev_allocate_blocks, 10, CHI_BDEV_ALLOCATE)
/* All or nothing; freeing what isn't allocated is CHI_EINVAL. */
#define CHI_BDEV_FREE(X, T)                                                                        \
  X(T, IN, array, blocks, chi_block, CHI_BDEV_BLOCKS) X(T, IN, bulk, more)
CHI_TASK(chi_bdev_free_blocks, 11, CHI_BDEV_FREE)
/* length bytes at the block's start; beyond the block is CHI_ERANGE. */
#define CHI_BDEV_WRITE(X, T)                                                                       \
  X(T, IN, object, block, chi_block) X(T, IN, bulk, data) X(T, IN, size, length)                   \
  X(T, OUT, u64, bytes_written)
CHI_TASK(chi_bdev_write, 12, CHI_BDEV_WRITE)
#define CHI_BDEV_READ(X, T)                                                                        \
  X(T, IN, object, block, chi_block) X(T, OUT, bulk, data) X(T, IN, size, length)                  \
  X(T, OUT, u64, bytes_read)
CHI_TASK(chi_bdev_read, 13, CHI_BDEV_READ)
/* Measured over the life of the container; 0 where nothing was measured yet. */
#define CHI_BDEV_STATS(X, T)                                                                       \
  X(T, OUT, u64, capacity) X(T, OUT, u64, remaining) X(T, OUT, u64, largest_extent)                \
  X(T, OUT, u64, reads) X(T, OUT, u64, writes) X(T, OUT, u64, bytes_read)                          \
  X(T, OUT, u64, bytes_written) X(T, OUT, f64, read_bandwidth_mbps)                                \
  X(T, OUT, f64, write_bandwidth_mbps) X(T, OUT, f64, read_latency_us)                             \
  X(T, OUT, f64, write_latency_us) X(T, OUT, f64, iops)
CHI_TASK(chi_bdev_get_stats, 14, CHI_BDEV_STATS)
/* What was written and allocated before is durable when it returns 0. */
CHI_TASK(chi_bdev_sync, 15, CHI_NO_FIELDS)

/* ---- declared structs as text ----------------------------------------------------------- */

typedef void chi_put_fn(void *arg, const char *text); /* receives output piece by piece */

/* Sets one field from text: "size", "block.offset", "blocks[2].size"; a bulk field takes none.
 * CHI_ENOENT (naming the nearest), CHI_EINVAL, CHI_ERANGE, CHI_ETOOBIG. */
int chi_type_set(const chi_type *type, void *object, const char *field, const char *text,
                 chi_error *err);
/* Sets every field that has a default to it; others are left. */
int chi_type_preset(const chi_type *type, void *object, chi_error *err);
/* Prints fields whose direction has a bit of dirs (enum chi_dir) as one JSON object. A bulk prints
 * as its size. */
void chi_type_print(const chi_type *type, const void *object, uint32_t dirs, chi_put_fn *put,
                    void *arg);

/* ---- clusters --------------------------------------------------------------------------- */

/* Several nodes behind one handle, for tests of modules and of programs. Simulated, they live in
 * this process under virtual time, with a network and disks that fail on demand, and everything
 * that happens follows from the seed. docs/simulation.md begins at the beginning.
 *
 * One thread uses a cluster. While simulated time runs, client programs (below), methods and checks
 * of this process are called in between; what they may use is said of each function: R means only
 * where no time runs, in the test itself. After a check has failed nothing runs any more. */
typedef struct chi_cluster chi_cluster;

#define CHI_CLUSTER_ALL UINT32_MAX
#define CHI_CLUSTER_NODES_MAX 4096u
#define CHI_CLUSTER_PROPERTIES_MAX 128u
#define CHI_CLUSTER_CHECKS_MAX 32u

/* Opens the cluster that spec names, "KIND:KEY=VALUE,...", each key once, and runs until its nodes
 * serve and have found each other.
 *   sim:       nodes=3, seed=1, up=NODES (how many start at once; the others with
 *              CHI_FAULT_START), and the keys of the configuration without their section, as in
 *              docs/configuration.md: heartbeat_interval=100ms, neighborhood_size=2, ...
 *   local:     real nodes, each a process on this host at an address 127.0.0.1 and up: nodes, up,
 *              seed (of faults) and the keys of the configuration (port: a free one). With modules
 *              they are forked from this process, and *out is set before they are: methods find it
 *              if it is a variable with static lifetime, and may tell properties. Without, they are
 *              processes of the program chimaera ($CHIMAERA, or as found), with the modules of
 *              $CHI_MODULE_PATH. Up to 16 nodes speak through a relay, which makes the faults of
 *              the network; docs/simulation.md says which faults there are.
 *   hostfile:  "hostfile:PATH", a cluster that runs: clients are those of the daemon on this host,
 *              found as chi_client_open(NULL) does. $CHI_NODE says which line of the file is its,
 *              where several have an address of this host.
 * Where nodes are real, time is: clients run as threads beside the test and are killed by cutting
 * their connection, a predicate is asked now and then, there is no hash, and of a story only what
 * nodes write into their logs, which is told when the cluster is closed.
 * The modules must outlive it. CHI_EINVAL: spec has a fault, which *err names; CHI_ENOTSUP: this
 * build has no such kind; what a node failed with. */
int chi_cluster_open(const char *spec, const chi_module *const *modules, uint32_t count,
                     chi_cluster **out, chi_error *err);
/* Ends all clients and nodes as if killed, and frees everything. NULL is fine. R. */
void chi_cluster_close(chi_cluster *cluster);
uint32_t chi_cluster_nodes(const chi_cluster *cluster);
/* 1 if that node serves. */
int chi_cluster_is_up(const chi_cluster *cluster, uint32_t node);

/* A client program: a process of its own on a node's host, with a connection to its daemon, for
 * which it waits if need be. body uses any function for clients; when it returns, the process has
 * ended and the connection is closed. Returns its number, from 1, or CHI_ERANGE. */
typedef void chi_cluster_body(chi_cluster *cluster, chi_client *client, void *arg);
int chi_cluster_client(chi_cluster *cluster, uint32_t node, chi_cluster_body *body, void *arg);
/* As kill -9; nothing if it has ended. Not by itself. */
void chi_cluster_client_kill(chi_cluster *cluster, int number);
int chi_cluster_client_ended(const chi_cluster *cluster, int number); /* 1: body has returned */
/* In the body of a client: lets time pass. */
void chi_cluster_sleep(chi_cluster *cluster, uint64_t ns);
/* In a body, or in a method: uses that much CPU, which holds up nobody else. */
void chi_cluster_cpu(chi_cluster *cluster, uint64_t ns);

/* Runs one task as a client of that node does and waits for it: *task is the caller's own, with
 * pool, query and IN fields set; after its completion it holds rc and OUT fields. Returns its rc;
 * CHI_ENOTSUP: with bulk fields, periodic, or one that nobody waits for: that is for bodies;
 * CHI_ETIMEOUT: not within limit_ns, and it was abandoned; CHI_ECANCELLED: a check has failed;
 * CHI_ENODAEMON: the node isn't up. R. */
int chi_cluster_call(chi_cluster *cluster, uint32_t node, const chi_type *type, void *task,
                     uint64_t limit_ns);
/* As chi_pool_create and chi_pool_destroy, as a client of that node does. R. */
int chi_cluster_pool_create(chi_cluster *cluster, uint32_t node, const char *mod_name,
                            const char *pool_name, const chi_param *params, uint32_t count,
                            chi_pool_id *id, chi_error *err);
int chi_cluster_pool_destroy(chi_cluster *cluster, uint32_t node, chi_pool_id id, chi_error *err);

/* Time. All return CHI_OK, CHI_ETIMEOUT, or CHI_ECANCELLED: a check has failed, and see
 * chi_cluster_failure. R. */
typedef int chi_cluster_fn(chi_cluster *cluster, void *arg); /* 1: it holds; 0 */
int chi_cluster_run_for(chi_cluster *cluster, uint64_t ns);
/* Until pred holds, which is asked after each event. */
int chi_cluster_run_until(chi_cluster *cluster, chi_cluster_fn *pred, void *arg, uint64_t limit_ns);
/* Until every client's body has returned. */
int chi_cluster_run_idle(chi_cluster *cluster, uint64_t limit_ns);
/* Makes the cluster whole - ends every fault, starts every node that is down - and runs until every
 * client's body has returned, no task is open, all nodes agree on who is there and on the pools,
 * and what must hold at last does. The check "liveness" fails if that takes longer. */
int chi_cluster_settle(chi_cluster *cluster, uint64_t limit_ns);
/* Asks a node, or all, to stop as an operator does and runs until they have. CHI_EBUSY: one is
 * stuck. What a node that has stopped still holds fails the check "leak". R. */
int chi_cluster_stop(chi_cluster *cluster, uint32_t node, uint32_t grace_ms);

/* Faults: what happens, of nodes a and b, and value; what a kind doesn't name is 0. */
#define CHI_FAULT_TABLE(X)                                                                         \
  X(CHI_FAULT_CUT, "cut")             /* a, b: nothing gets from a to b, though from b to a */     \
  X(CHI_FAULT_JOIN, "join")           /* a, b: ends cut */                                         \
  X(CHI_FAULT_ISOLATE, "isolate")     /* a: nothing gets to it or from it */                       \
  X(CHI_FAULT_REJOIN, "rejoin")       /* a: ends isolate */                                        \
  X(CHI_FAULT_PARTITION, "partition") /* a, b: nodes a to b are cut off from all others */         \
  X(CHI_FAULT_SPLIT, "split")         /* value: the same for nodes whose bits are set */           \
  X(CHI_FAULT_HEAL, "heal")           /* ends all that is wrong with the network */                \
  X(CHI_FAULT_CLOG, "clog")           /* a, b, value: the way takes so many ns longer; 0 ends */   \
  X(CHI_FAULT_SLOW, "slow")           /* a, b, value: takes so many hundredths; 100 ends */        \
  X(CHI_FAULT_FULL, "full")           /* a, b, value 1: no room in the queue from a to b; 0 ends */\
  X(CHI_FAULT_DROP, "drop")           /* a, b: the connection breaks, and a hears of it */         \
  X(CHI_FAULT_HALF, "half")           /* a, b: it breaks, and a does not hear of it for a while */ \
  X(CHI_FAULT_LOSE, "lose")           /* a, b, value: that message from now, from 1, is lost */    \
  X(CHI_FAULT_SNAP, "snap")           /* a, b, value: the connection breaks with that message */   \
  X(CHI_FAULT_PAUSE, "pause")         /* a: its threads stand still; its network does not */       \
  X(CHI_FAULT_RESUME, "resume")       /* a: ends pause */                                          \
  X(CHI_FAULT_CRASH, "crash")         /* a: loses power, and what its disk had not made safe */    \
  X(CHI_FAULT_KILL, "kill")           /* a: its process ends, as by kill -9 */                     \
  X(CHI_FAULT_STOP, "stop")           /* a, value: is asked to stop, with so many ms of grace */   \
  X(CHI_FAULT_START, "start")         /* a: starts, for the first time or again */                 \
  X(CHI_FAULT_DRIFT, "drift")         /* a, value: its clocks gain that in a million; 0 ends */    \
  X(CHI_FAULT_JUMP, "jump")           /* a, value: its clocks jump by that, ns */                  \
  X(CHI_FAULT_DISK, "disk")           /* a, b (enum chi_fault_file; all), value: the next          \
                                       * operation fails: CHI_EIO, for 1 CHI_ENOSPC */             \
  X(CHI_FAULT_DELAY, "delay")         /* a, b as above, value: the next takes so many ns longer */ \
  X(CHI_FAULT_MEMORY, "memory")       /* value: so many of a million askings for memory fail */    \
  X(CHI_FAULT_CALM, "calm")           /* ends every fault, and starts what crashed or was killed */

typedef enum chi_fault {
#define CHI_FAULT_ENUM(name, text) name,
  CHI_FAULT_TABLE(CHI_FAULT_ENUM)
#undef CHI_FAULT_ENUM
  CHI_FAULT_KINDS
} chi_fault;

enum chi_fault_file {
  CHI_FAULT_OPEN, CHI_FAULT_READ, CHI_FAULT_WRITE, CHI_FAULT_SYNC, CHI_FAULT_TRUNCATE,
  CHI_FAULT_SIZE, CHI_FAULT_CLOSE, CHI_FAULT_RENAME, CHI_FAULT_REMOVE, CHI_FAULT_DIRSYNC,
  CHI_FAULT_SPACE
};

/* "cut" and so on; "unknown". */
const char *chi_fault_name(int kind);
/* It happens now; from a body, a method or a check: as soon as that has let go. What makes no sense
 * now (a node that is to end isn't up) does nothing, and counts nothing. CHI_EINVAL: no such fault;
 * CHI_ERANGE: no such node, or value; CHI_EBUSY: too many; CHI_ENOTSUP: not in this kind of
 * cluster. */
int chi_cluster_fault(chi_cluster *cluster, int kind, uint32_t a, uint32_t b, int64_t value);
/* Faults to come, a line "TIME NAME [A [B]] [VALUE]" each: seconds since the clock said one second,
 * and what the kind names; # begins a comment. CHI_EINVAL: *err says where; CHI_ENOTSUP. R. */
int chi_cluster_plan(chi_cluster *cluster, const char *text, chi_error *err);
/* Faults drawn from the seed: "until=10s,kinds=crash+cut+pause,each=3,outage=1s,down=1,swarm=1".
 * until: from now on, and then all is calm; kinds: all but memory, if not given; each: most of one
 * kind; outage: longest time that one lasts; down: most nodes that are down or unreachable at a
 * time; swarm=1: only a part of the kinds, as drawn. CHI_EINVAL, CHI_ENOTSUP. R. */
int chi_cluster_faults(chi_cluster *cluster, const char *spec, chi_error *err);
/* How often that kind has happened so far. */
uint64_t chi_cluster_fault_count(const chi_cluster *cluster, int kind);

/* Checks of one's own: fn is called at the end of each event, or where nothing is open any more (in
 * chi_cluster_settle); what it returns that isn't NULL is the text of a failure. CHI_ERANGE: too
 * many. Built-in checks are always on: see docs/simulation.md. */
enum chi_check_when { CHI_CHECK_EVENT, CHI_CHECK_SETTLED };
typedef const char *chi_check_fn(chi_cluster *cluster, void *arg);
int chi_cluster_check(chi_cluster *cluster, const char *name, int when, chi_check_fn *fn,
                      void *arg);
/* Properties, told by whoever knows: a test, a body, a method. The first is a failure whenever it
 * does not hold. The second should hold at least once. They are known by name, of which 63
 * characters count, and return `holds`. */
int chi_always(chi_cluster *cluster, const char *name, int holds);
int chi_sometimes(chi_cluster *cluster, const char *name, int holds);
/* pred must hold at last: chi_cluster_settle waits for it. CHI_ERANGE: too many. */
int chi_eventually(chi_cluster *cluster, const char *name, chi_cluster_fn *pred, void *arg);
/* How often the property of that name was told of, and held. CHI_ENOENT. */
int chi_cluster_property(const chi_cluster *cluster, const char *name, uint64_t *told,
                         uint64_t *held);
/* A test that has found something wrong: from the first call on nothing runs any more. */
void chi_cluster_fail(chi_cluster *cluster, const char *check, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

typedef struct chi_failure {
  uint64_t event, time; /* how many had happened; virtual nanoseconds */
  char check[64], text[400];
} chi_failure;
/* The first check that failed; NULL: none has. */
const chi_failure *chi_cluster_failure(const chi_cluster *cluster);
/* Writes what the run came to: time, events, hash, faults by kind, properties and those that never
 * held, the failure. Returns how many properties never held. */
uint32_t chi_cluster_report(const chi_cluster *cluster, chi_put_fn *put, void *arg);

uint64_t chi_cluster_now(const chi_cluster *cluster); /* nanoseconds; begins at one second */
uint64_t chi_cluster_seed(const chi_cluster *cluster);
/* Over everything that has happened: equal for equal runs, on any machine. 0 if not simulated. */
uint64_t chi_cluster_hash(const chi_cluster *cluster);
uint64_t chi_cluster_events(const chi_cluster *cluster);
/* From now on put gets a line for each event that is worth reading; NULL: nobody does. */
void chi_cluster_story(chi_cluster *cluster, chi_put_fn *put, void *arg);

/* ---- nodes ------------------------------------------------------------------------------ */

#ifndef CHI_OMIT_REAL
typedef struct chi_node chi_node;
/* Starts a node in this process: its threads, its socket, the pools of config->compose. The
 * modules beside the built-in ones are passed as `count` pointers; others load from the
 * directories of $CHI_MODULE_PATH. config is copied. *out is there before the pools are, so that a
 * signal handler can stop a node whose pools take too long: then CHI_OK comes at once, as if it had
 * been stopped a moment later. On failure *out is NULL. */
int chi_node_open(const chi_config *config, const chi_module *const *modules, uint32_t count,
                  chi_node **out, chi_error *err);
/* The instance's name, for chi_client_open: "NAME:PORT". Lives as long as the node. */
const char *chi_node_instance(const chi_node *node);
/* Waits until the node was asked to stop: CHI_OK, or CHI_ETIMEOUT. */
int chi_node_wait(chi_node *node, uint64_t timeout_ns);
/* Asks a node to stop, from any thread or a signal handler. */
void chi_node_stop(chi_node *node);
/* For a program that is a daemon: from now on a method that overruns its stack ends the process
 * with status 70 and a line in the log and on standard error that names it. It takes the handlers
 * of SIGSEGV and SIGBUS and passes other faults on to those that were there before; once for all
 * nodes of a process. Without it such a method is a memory fault like any other. */
int chi_node_guard(chi_node *node);
/* Drains for grace_ms, cancels what is left, waits as long again, and closes. CHI_EBUSY: a method
 * does not come back; the node stays open. */
int chi_node_close(chi_node *node, uint32_t grace_ms);
#endif

#ifdef __cplusplus
}
#endif

#endif
