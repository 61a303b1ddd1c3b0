/* Search in pages that are opened from a folder: browsers start no worker from file://. The worker's script runs in a
 * hidden frame instead, which has a message port's manners and loads further scripts as they are asked for. */
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      document.body.append(frame);
      this.inside = frame.contentWindow;
      const base = new URL(url, location.href);
      const load = (address) =>
        new Promise((done, failed) => {
          const script = this.inside.document.createElement("script");
          script.src = new URL(address, base).href;
          script.onload = () => done();
          script.onerror = failed;
          this.inside.document.body.append(script);
        });
      this.inside.importScripts = (...addresses) =>
        addresses.reduce((before, address) => before.then(() => load(address)), Promise.resolve());
      this.inside.postMessage = (data) => {
        const event = new MessageEvent("message", { data });
        this.dispatchEvent(event);
        if (this.onmessage) this.onmessage(event);
      };
      this.ready = load(base);
    }

    postMessage(data) {
      this.ready.then(() => {
        const event = new this.inside.MessageEvent("message", { data });
        this.inside.dispatchEvent(event);
      });
    }

    terminate() {
      this.inside.frameElement.remove();
    }
  };
}
