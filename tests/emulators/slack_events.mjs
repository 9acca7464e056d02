// The Slack emulator delivers signed events, but its seed cannot say where to. This adds `event_url` to the
// seed and then runs the emulator's own command line, whose files stay as they are.
import { SERVICE_REGISTRY } from "./node_modules/emulate/dist/chunk-IHI7H6SI.js";

const slack = SERVICE_REGISTRY.slack;
const load = slack.load;
slack.load = async () => {
  const service = await load();
  const seedFromConfig = (store, baseUrl, { event_url: url, ...config }, webhooks) => {
    service.seedFromConfig(store, baseUrl, config, webhooks);
    webhooks.register({ url, events: ["*"], active: true, owner: "slack" });
  };
  return { ...service, seedFromConfig };
};

await import("./node_modules/emulate/dist/index.js");
