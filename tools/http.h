/* http.h - serves one page over HTTP. */
#ifndef CHI_TOOL_HTTP_H
#define CHI_TOOL_HTTP_H

#include "base.h"

#define HTTP_CONNECTIONS 64    /* at a time; further ones wait to be accepted, or are closed */
#define HTTP_PER_ADDRESS 16    /* of them from one address */
#define HTTP_TIMEOUT_S 10      /* a connection on which nothing moves is closed */
#define HTTP_MEMORY (16u << 10) /* bytes of one connection, for all of a request's head */

struct http;

/* Makes the page: memory from malloc, *size bytes. Called by one thread at a time, not the one that
 * called http_open. NULL: none can be made now, which is an error 503. */
typedef char *http_page_fn(void *arg, size_t *size);

/* Serves `path` on a listening socket, which is closed by http_close: GET and HEAD give the page,
 * other methods an error 405, other paths 404. CHI_ENOTSUP: this program was built without
 * libmicrohttpd; CHI_ENOMEM: it could not be started. */
int http_open(int listener, const char *path, const char *content_type, http_page_fn *page,
              void *arg, struct http **out);
/* Waits for a page that is being made. */
void http_close(struct http *http);
/* The version of libmicrohttpd; NULL: built without it. */
const char *http_version(void);

#endif
