/* The inference server that the benchmarks pretend to have: it answers as fast as one core can write.
 *
 *   upstream PORT|PATH
 *
 * Listens on 127.0.0.1:PORT, or on the Unix socket PATH. A POST whose body asks for a stream gets 40 server-sent events, each written by itself
 * with TCP_NODELAY, one chunk an event; between two events of one answer every other answer under way gets one too, as
 * a server's parallel sequences do. Any other request gets one chat completion of about 500 bytes. HTTP/1.1 keep-alive,
 * Content-Length bodies only, no more checks than that takes: it is never to be what a benchmark measures.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { EVENTS = 40, CAPACITY = 64 * 1024, MAX_READY = 256 };

struct connection {
    int fd;
    size_t have;                     /* bytes of requests read and not yet answered */
    int event;                       /* the next event of the stream; -1 if no stream is under way */
    const char *rest;                /* what a full socket buffer did not take */
    size_t rest_size;
    struct connection *next, *previous; /* among the connections that stream */
    char data[CAPACITY + 1];
};

static int poller;
static struct connection *streaming; /* a ring; NULL if nobody streams */
static char answer[2048], stream_head[512], events[EVENTS][512];
static size_t answer_size, stream_head_size, event_sizes[EVENTS];

static void prepare(void) {
    const char *body =
        "{\"id\":\"chatcmpl-4xk2nSw1vQ0Zr8Yb\",\"object\":\"chat.completion\",\"created\":1760000000,\"model\":\"tiny\","
        "\"system_fingerprint\":\"b10434\",\"choices\":[{\"index\":0,\"finish_reason\":\"stop\",\"message\":"
        "{\"role\":\"assistant\",\"content\":\"A lighthouse keeper wrote the weather down each evening, and on the last "
        "page of the book it was always fair.\"}}],\"usage\":{\"prompt_tokens\":58,\"completion_tokens\":24,"
        "\"total_tokens\":82},\"timings\":{\"prompt_n\":58,\"prompt_ms\":41.2,\"predicted_n\":24,\"predicted_ms\":512.7}}";
    answer_size = (size_t)snprintf(answer, sizeof answer,
        "HTTP/1.1 200 OK\r\nServer: upstream\r\nContent-Type: application/json; charset=utf-8\r\n"
        "Content-Length: %zu\r\n\r\n%s", strlen(body), body);
    stream_head_size = (size_t)snprintf(stream_head, sizeof stream_head,
        "HTTP/1.1 200 OK\r\nServer: upstream\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n");
    for (int i = 0; i < EVENTS; i++) {
        char event[400];
        const char *end = "";
        if (i == EVENTS - 1) {
            snprintf(event, sizeof event, "data: [DONE]\n\n");
            end = "0\r\n\r\n";
        } else if (i == EVENTS - 2) {
            snprintf(event, sizeof event,
                "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}],\"created\":1760000000,"
                "\"id\":\"chatcmpl-4xk2nSw1vQ0Zr8Yb\",\"model\":\"tiny\",\"object\":\"chat.completion.chunk\",\"usage\":"
                "{\"prompt_tokens\":58,\"completion_tokens\":38,\"total_tokens\":96}}\n\n");
        } else {
            snprintf(event, sizeof event,
                "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\" word%d\"},\"finish_reason\":null}],"
                "\"created\":1760000000,\"id\":\"chatcmpl-4xk2nSw1vQ0Zr8Yb\",\"model\":\"tiny\","
                "\"object\":\"chat.completion.chunk\"}\n\n", i);
        }
        event_sizes[i] = (size_t)snprintf(events[i], sizeof events[i], "%zx\r\n%s\r\n%s", strlen(event), event, end);
    }
}

static void enter_ring(struct connection *c) {
    if (streaming == NULL) {
        c->next = c->previous = c;
        streaming = c;
    } else {
        c->next = streaming;
        c->previous = streaming->previous;
        c->previous->next = c;
        streaming->previous = c;
    }
}

static void leave_ring(struct connection *c) {
    if (c->next == NULL) return;
    c->next->previous = c->previous;
    c->previous->next = c->next;
    if (streaming == c) streaming = c->next == c ? NULL : c->next;
    c->next = c->previous = NULL;
}

static void drop(struct connection *c) {
    leave_ring(c);
    close(c->fd);
    free(c);
}

static void watch(struct connection *c, unsigned what) {
    struct epoll_event interest = {.events = what, .data.ptr = c};
    epoll_ctl(poller, EPOLL_CTL_MOD, c->fd, &interest);
}

/* Writes, or keeps the rest for later. Returns 0 if the connection is gone. */
static int put(struct connection *c, const char *bytes, size_t size) {
    ssize_t sent = write(c->fd, bytes, size);
    if (sent < 0) {
        if (errno != EAGAIN) return 0;
        sent = 0;
    }
    if ((size_t)sent < size) {
        c->rest = bytes + sent;
        c->rest_size = size - (size_t)sent;
        leave_ring(c);
        watch(c, EPOLLIN | EPOLLOUT);
    }
    return 1;
}

/* Takes one whole request off the buffer. Returns 1 for a plain one, 2 for a stream, 0 if none is complete. */
static int next_request(struct connection *c) {
    char *end = memmem(c->data, c->have, "\r\n\r\n", 4);
    if (end == NULL) return 0;
    size_t head = (size_t)(end - c->data) + 4, length = 0;
    *end = 0;
    char *field = strcasestr(c->data, "\r\ncontent-length:");
    if (field != NULL) length = strtoul(field + 17, NULL, 10);
    *end = '\r';
    if (head + length > CAPACITY) exit(3);
    if (c->have < head + length) return 0;
    int streams = memmem(c->data + head, length, "\"stream\":true", 13) != NULL ||
                  memmem(c->data + head, length, "\"stream\": true", 14) != NULL;
    c->have -= head + length;
    memmove(c->data, c->data + head + length, c->have);
    return streams ? 2 : 1;
}

/* Answers what is in the buffer, until a stream begins or a socket is full. Returns 0 if the connection is gone. */
static int serve(struct connection *c) {
    while (c->event < 0 && c->rest_size == 0) {
        int kind = next_request(c);
        if (kind == 0) break;
        if (kind == 1) {
            if (!put(c, answer, answer_size)) return 0;
        } else {
            c->event = 0;
            enter_ring(c);
            if (!put(c, stream_head, stream_head_size)) return 0;
        }
    }
    return 1;
}

/* Writes the next event. Returns 0 if the connection is gone. */
static int step(struct connection *c) {
    int event = c->event++;
    if (c->event == EVENTS) {
        c->event = -1;
        leave_ring(c);
    }
    return put(c, events[event], event_sizes[event]) && serve(c);
}

static int readable(struct connection *c) {
    if (c->have == CAPACITY) return 1;
    ssize_t got = read(c->fd, c->data + c->have, CAPACITY - c->have);
    if (got == 0 || (got < 0 && errno != EAGAIN)) return 0;
    if (got > 0) c->have += (size_t)got;
    return serve(c);
}

static int writable(struct connection *c) {
    const char *bytes = c->rest;
    size_t size = c->rest_size;
    c->rest_size = 0;
    if (!put(c, bytes, size)) return 0;
    if (c->rest_size > 0) return 1;
    watch(c, EPOLLIN);
    if (c->event >= 0) enter_ring(c);
    return serve(c);
}

static void welcome(int listener) {
    int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK), on = 1;
    if (fd < 0) return;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    struct connection *c = calloc(1, sizeof *c);
    if (c == NULL) exit(3);
    c->fd = fd;
    c->event = -1;
    struct epoll_event interest = {.events = EPOLLIN, .data.ptr = c};
    epoll_ctl(poller, EPOLL_CTL_ADD, fd, &interest);
}

static void give_each_an_event(void) {
    int count = 0;
    struct connection *c = streaming;
    if (c == NULL) return;
    do count++, c = c->next; while (c != streaming);
    while (count-- > 0 && streaming != NULL) {
        c = streaming;
        streaming = c->next;
        if (!step(c)) drop(c);
    }
}

static int listen_on(const char *where) {
    if (*where == '/') {
        struct sockaddr_un path = {.sun_family = AF_UNIX};
        snprintf(path.sun_path, sizeof path.sun_path, "%s", where);
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
        return bind(fd, (struct sockaddr *)&path, sizeof path) || listen(fd, 1024) ? -1 : fd;
    }
    struct sockaddr_in port = {.sin_family = AF_INET, .sin_port = htons((unsigned short)atoi(where))};
    port.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), on = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    return bind(fd, (struct sockaddr *)&port, sizeof port) || listen(fd, 1024) ? -1 : fd;
}

int main(int argc, char **argv) {
    if (argc != 2) return 2;
    signal(SIGPIPE, SIG_IGN);
    prepare();
    int listener = listen_on(argv[1]);
    if (listener < 0) {
        perror("upstream");
        return 1;
    }
    poller = epoll_create1(0);
    struct epoll_event interest = {.events = EPOLLIN, .data.ptr = NULL}, ready[MAX_READY];
    epoll_ctl(poller, EPOLL_CTL_ADD, listener, &interest);
    for (;;) {
        int n = epoll_wait(poller, ready, MAX_READY, streaming == NULL ? -1 : 0);
        for (int i = 0; i < n; i++) {
            struct connection *c = ready[i].data.ptr;
            if (c == NULL) {
                welcome(listener);
                continue;
            }
            int alive = 1;
            if (ready[i].events & EPOLLOUT) alive = writable(c);
            if (alive && (ready[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR))) alive = readable(c);
            if (!alive) drop(c);
        }
        give_each_an_event();
    }
}
