/* What bindgen reads. build.rs allow-lists the names that src/sip/pjsip uses. */
#include <pjsua-lib/pjsua.h>

/* Limits of the installed headers, as values bindgen can carry over. */
enum {
    SIPBRIDGE_MAX_CALLS = PJSUA_MAX_CALLS,
    SIPBRIDGE_MAX_ACCOUNTS = PJSUA_MAX_ACC,
    SIPBRIDGE_MAX_HANDLES = PJ_IOQUEUE_MAX_HANDLES,
    SIPBRIDGE_HAS_IPV6 = PJ_HAS_IPV6
};
