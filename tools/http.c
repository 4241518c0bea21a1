/* http.c - serves one page over HTTP. */
#include "http.h"

#include <stdlib.h>
#include <string.h>

#if !defined(HTTP_LEFT_OUT) && __has_include(<microhttpd.h>)

#include <microhttpd.h>

struct http {
  struct MHD_Daemon *daemon;
  const char *path, *content_type;
  http_page_fn *page;
  void *arg;
};

static enum MHD_Result http_say(struct MHD_Connection *c, unsigned int status, const char *text)
{
  void *bytes = (void *)(uintptr_t)text;
  struct MHD_Response *r =
      MHD_create_response_from_buffer(strlen(text), bytes, MHD_RESPMEM_PERSISTENT);
  enum MHD_Result rc = MHD_NO;
  if (!r)
    return MHD_NO;
  MHD_add_response_header(r, MHD_HTTP_HEADER_CONTENT_TYPE, "text/plain; charset=utf-8");
  if (status == MHD_HTTP_METHOD_NOT_ALLOWED)
    MHD_add_response_header(r, MHD_HTTP_HEADER_ALLOW, "GET, HEAD");
  rc = MHD_queue_response(c, status, r);
  MHD_destroy_response(r);
  return rc;
}

static enum MHD_Result http_give_page(const struct http *http, struct MHD_Connection *c)
{
  size_t size = 0;
  char *page = http->page(http->arg, &size);
  struct MHD_Response *r;
  enum MHD_Result rc;
  if (!page)
    return http_say(c, MHD_HTTP_SERVICE_UNAVAILABLE, "no page can be made now\n");
  r = MHD_create_response_from_buffer(size, page, MHD_RESPMEM_MUST_FREE);
  if (!r) {
    free(page);
    return MHD_NO;
  }
  MHD_add_response_header(r, MHD_HTTP_HEADER_CONTENT_TYPE, http->content_type);
  rc = MHD_queue_response(c, MHD_HTTP_OK, r);
  MHD_destroy_response(r);
  return rc;
}

/* Called when the head of a request is there, and again when all of it is: an error is told at
 * once, so that nobody sends a body for nothing. */
static enum MHD_Result http_on_request(void *arg, struct MHD_Connection *c, const char *url,
                                       const char *method, const char *version, const char *upload,
                                       size_t *upload_size, void **state)
{
  const struct http *http = arg;
  (void)version, (void)upload;
  if (*state) {
    if (*upload_size > 0) { /* of a GET with a body: not read */
      *upload_size = 0;
      return MHD_YES;
    }
    return http_give_page(http, c);
  }
  if (strcmp(url, http->path) != 0)
    return http_say(c, MHD_HTTP_NOT_FOUND, "not here; see /metrics\n");
  if (strcmp(method, MHD_HTTP_METHOD_GET) != 0 && strcmp(method, MHD_HTTP_METHOD_HEAD) != 0)
    return http_say(c, MHD_HTTP_METHOD_NOT_ALLOWED, "only GET and HEAD\n");
  *state = arg;
  return MHD_YES;
}

int http_open(int listener, const char *path, const char *content_type, http_page_fn *page,
              void *arg, struct http **out)
{
  struct http *http = calloc(1, sizeof(*http));
  if (!http)
    return CHI_ENOMEM;
  *http = (struct http){NULL, path, content_type, page, arg};
  http->daemon = MHD_start_daemon(
      MHD_USE_AUTO_INTERNAL_THREAD, 0, NULL, NULL, http_on_request, http, MHD_OPTION_LISTEN_SOCKET,
      listener, MHD_OPTION_CONNECTION_LIMIT, (unsigned int)HTTP_CONNECTIONS,
      MHD_OPTION_PER_IP_CONNECTION_LIMIT, (unsigned int)HTTP_PER_ADDRESS,
      MHD_OPTION_CONNECTION_TIMEOUT, (unsigned int)HTTP_TIMEOUT_S,
      MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)HTTP_MEMORY, MHD_OPTION_END);
  if (!http->daemon) {
    free(http);
    return CHI_ENOMEM;
  }
  *out = http;
  return CHI_OK;
}

void http_close(struct http *http)
{
  MHD_stop_daemon(http->daemon);
  free(http);
}

const char *http_version(void)
{
  return MHD_get_version();
}

#else

int http_open(int listener, const char *path, const char *content_type, http_page_fn *page,
              void *arg, struct http **out)
{
  (void)listener, (void)path, (void)content_type, (void)page, (void)arg, (void)out;
  return CHI_ENOTSUP;
}

void http_close(struct http *http)
{
  (void)http;
}

const char *http_version(void)
{
  return NULL;
}

#endif
