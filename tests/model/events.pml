/*
 * What has to happen somewhere, or the search proves nothing: check.py demands that the sound
 * configurations together meet every one of these. The mask lies outside the model's state, so
 * it says what the whole search met; pan prints it as it exits. Without -DEVENTS, as spin needs
 * for a replay (spin -t), all this is nothing.
 */
#define PASSED_A_SLEEPER 0
#define REFUSED_AS_OWNER_DIED 1
#define TOLD_THAT_OWNER_DIED 2
#define FOUND_HINT_STALE 3
#define GAVE_UP 4
#define GAVE_BACK 5
#define JOINED 6
#define HANDED_OVER 7
#define LET_GO_FOR_OTHERS 8
#define WOKE_A_CANCELLED_ONE 9
#define FOUND_ITSELF_DROPPED 10
#define CALLED_OFF 11
#define CANCELLED_AFTER_GRANT 12
#define WON_ALL_THE_SAME 13
#define UPGRADED_ALONE 14
#define LOST_ALONE 15
#define UPGRADED_IN_THE_END 16
#define LOST_IN_THE_END 17
#define UPGRADED_SECOND 18
#define UPGRADE_CANCELLED 19
#define DOWNGRADED 20
#define COLLECTED_IN_TIME 21
#define REFUSED_IN_THE_QUEUE 22
#define RECOVERY_FAILED 23
#define CLEARED_A_WORD 24
#define WAS_TOLD 25
#define LEFT_IT_ITS_CHANCE 26
#define PASSED_IN_ITS_TURN 27

#ifdef EVENTS
c_decl {
	static unsigned long events;
	static void report(void) { printf("events: %lx\n", events); }
}
#define EVENT(n) c_code { events |= 1UL << n; }
#define START_OF_EVENTS c_code { atexit(report); }
#else
#define EVENT(n) skip
#define START_OF_EVENTS skip
#endif
