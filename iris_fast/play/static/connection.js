// The websocket to the server. It connects again by itself, waiting longer after each failure.

import { unpackFrame } from "./protocol.js";

const LONGEST_WAIT = 4000; // milliseconds
const FULL = 4001; // the server's closing code when all tabs are taken

export class Connection {
  constructor({ onFrame, onMessage, onStatus }) {
    Object.assign(this, { onFrame, onMessage, onStatus });
    this.wait = 250;
    this.open();
  }

  open() {
    const address = new URL("/tab", location.href);
    address.protocol = location.protocol === "https:" ? "wss:" : "ws:";
    const socket = new WebSocket(address);
    socket.binaryType = "arraybuffer";
    socket.onopen = () => { this.wait = 250; this.onStatus(true); };
    socket.onmessage = ({ data }) => this.receive(socket, data);
    socket.onclose = ({ code }) => {
      if (code === FULL) return; // the message before said why
      this.onStatus(false);
      setTimeout(() => this.open(), this.wait);
      this.wait = Math.min(this.wait * 2, LONGEST_WAIT);
    };
    this.socket = socket;
  }

  async receive(socket, data) {
    if (typeof data === "string") return this.onMessage(JSON.parse(data));
    const frame = unpackFrame(data);
    try {
      await this.onFrame(frame);
    } finally { // seen, once it is drawn
      if (socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify({ type: "seen", n: frame.info.n }));
    }
  }

  send(type, fields = {}) {
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify({ type, ...fields }));
  }
}
