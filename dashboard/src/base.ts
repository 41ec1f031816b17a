/**
 * The path below which the host is served: empty, or for example `/stepwell` behind a reverse proxy.
 * This script is at `BASE/workflow-metrics/dashboard/assets/`.
 */
export const BASE = new URL("../../..", import.meta.url).pathname.replace(/\/$/u, "");
