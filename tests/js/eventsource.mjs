// Runs a piece of a page's script that listens with an EventSource, and prints what it logs, so many lines of it.
// Node has no EventSource of its own: this one does what the standard says of a stream, without coming back.
const [base, count, script] = process.argv.slice(2);
let left = Number(count);

class EventSource extends EventTarget {
  constructor(address) {
    super();
    this.read(new URL(address, base));
  }

  async read(url) {
    const answer = await fetch(url, { headers: { Accept: 'text/event-stream' } });
    if (answer.status !== 200 || answer.headers.get('content-type') !== 'text/event-stream; charset=utf-8')
      throw new Error(`${answer.status} ${answer.headers.get('content-type')}`);
    let text = '';
    for await (const part of answer.body.pipeThrough(new TextDecoderStream())) {
      text += part;
      const blocks = text.split('\n\n');
      text = blocks.pop();
      for (const block of blocks) this.tell(block);
    }
  }

  tell(block) {
    let type = 'message';
    const data = [];
    let lastEventId = '';
    for (const line of block.split('\n')) {
      const [, field, value] = /^([^:]*):? ?(.*)$/.exec(line);
      if (field === 'event') type = value;
      if (field === 'data') data.push(value);
      if (field === 'id') lastEventId = value;
    }
    if (data.length) this.dispatchEvent(new MessageEvent(type, { data: data.join('\n'), lastEventId }));
    if (type === 'connected') console.log(JSON.stringify({ connected: true }));
  }
}

const page = {
  log(...words) {
    console.log(JSON.stringify({ line: words.join(' ') }));
    if (!--left) process.exit(0);
  },
};
new Function('EventSource', 'console', script)(EventSource, page);
