/* Limits and choices for the pjproject that sipbridge is built on.
 *
 * Copied to pjlib/include/pj/config_site.h before the build, and read by
 * bindgen through the installed headers, so both see the same structs.
 * Aim: 1,000 calls and 5,000 lines in one process.
 */

/* Calls and lines. The stock values are 4 and 8. */
#define PJSUA_MAX_CALLS                         1024
#define PJSUA_MAX_ACC                           5120
#define PJSUA_MAX_CONF_PORTS                    2100
#define PJSUA_MAX_PLAYERS                       1
#define PJSUA_MAX_RECORDERS                     1
#define PJSUA_MAX_BUDDIES                       1
#define PJSUA_MAX_VID_WINS                      1
/* One outbound server and one credential per line, no video feedback: what
 * 5,000 accounts reserve. */
#define PJSUA_ACC_MAX_PROXIES                   1
#define PJMEDIA_RTCP_FB_MAX_CAP                 2

/* Each call reserves this many media lines, provisional ones too. An offer
 * with more m= lines than this is refused by pjsua, so keep room for
 * audio + video + text + application. */
#define PJMEDIA_MAX_SDP_MEDIA                   6

/* Every handle is reserved at start, 0.7 kB each. Media: two sockets per call,
 * four through TURN, for 1,024 calls and some spare. SIP: one per TCP or TLS
 * connection, were it one for each line. Above 1024 only with epoll, which
 * the build asks for. */
#define PJ_IOQUEUE_MAX_HANDLES                  4608
#define PJSIP_MAX_TRANSPORTS                    5376

/* Transactions and dialogs: powers of two less one. */
#define PJSIP_MAX_TSX_COUNT                     (16384-1)
#define PJSIP_MAX_DIALOG_COUNT                  (8192-1)

/* Timers that need no growing: one per line, and a few per call and
 * transaction. */
#define PJSIP_MAX_TIMER_COUNT                   16384

/* One read event must not starve the timers, but hundreds of lines
 * register at once. */
#define PJSIP_MAX_NET_EVENTS                    16
#define PJSIP_MAX_TIMED_OUT_ENTRIES             64
#define PJSIP_UDP_SO_RCVBUF_SIZE                4194304
#define PJSIP_UDP_SO_SNDBUF_SIZE                1048576
/* Largest message that is read: what fits into a datagram. Each transport
 * reserves it (one UDP socket; each TCP connection, three times for TLS), and
 * each call until it has been announced. A message that is sent has 8,000 first,
 * by pjproject-large.patch; without it this much each. */
#define PJSIP_MAX_PKT_LEN                       65536

/* A message's pool holds its text, 8,000 at once, and lives up to 32 s: grown
 * in steps of 4,000 as by default it would waste a third. */
#define PJSIP_POOL_INC_TDATA                    1024
#define PJSIP_MAX_URL_SIZE                      1024

/* Our own order: PCMU first, then PCMA, whatever the offer's order. */
#define PJMEDIA_SDP_NEG_PREFER_REMOTE_CODEC_ORDER   0

/* Opus is decoded by the bridge at 8 kHz; everything else is not offered. */
#define PJMEDIA_HAS_L16_CODEC                   0
#define PJMEDIA_HAS_G722_CODEC                  0
#define PJMEDIA_HAS_VIDEO                       0

/* SRTP: the three suites in use, so that a call's structs stay small. */
#define PJMEDIA_SRTP_HAS_DTLS                   1
#define PJMEDIA_SRTP_MAX_CRYPTOS                8

/* A REGISTER answered from behind NAT keeps the Contact we chose unless the
 * address really differs. */
#define PJSIP_ACC_ALLOW_CONTACT_REWRITE         2

/* Logging is forwarded to tracing; level 5 and 6 are per-packet. */
#define PJ_LOG_MAX_LEVEL                        5
