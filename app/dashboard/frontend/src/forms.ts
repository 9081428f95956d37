// What do forms do besides being sent? They ask first, show what they would do, copy. Each still works by itself.
import { elements, make, toast } from './page';
import { pageOf } from './parsing';

function ask(question: string): Promise<boolean> {
  return new Promise((resolve) => {
    const yes = make('button', { type: 'submit', class: 'danger', value: 'yes' }, 'Yes');
    const no = make('button', { type: 'submit', class: 'quiet', value: 'no' }, 'No');
    const form = make('form', { method: 'dialog', class: 'form' }, make('p', {}, question), make('div', { class: 'actions' }, yes, no));
    const dialog = make('dialog', { 'aria-label': question }, form);
    document.body.append(dialog);
    dialog.addEventListener('close', () => {
      dialog.remove();
      resolve(dialog.returnValue === 'yes');
    });
    dialog.showModal();
  });
}

function bodyOf(form: HTMLFormElement, submitter: HTMLElement | null): URLSearchParams {
  const body = new URLSearchParams();
  for (const [name, value] of new FormData(form, submitter)) body.append(name, String(value));
  return body;
}

/** Sends the form, whose answer is a page that asks for confirmation, and shows that page's question in a dialog. */
async function preview(form: HTMLFormElement, submitter: HTMLElement | null): Promise<void> {
  const body = bodyOf(form, submitter);
  // Not `form.action`, which is a button of that name where there is one.
  const get = form.getAttribute('method')?.toLowerCase() !== 'post';
  const url = new URL(form.getAttribute('action') ?? '', location.href);
  if (get) url.search = body.toString();
  const response = await fetch(url, get ? {} : { method: 'POST', body });
  const page = await pageOf(response);
  const question = page.querySelector('[data-confirmation]');
  if (!question) throw new Error(page.querySelector('main')?.textContent?.trim() || `The server answered ${response.status}.`);
  const close = make('button', { type: 'button', class: 'quiet' }, 'Not now');
  const dialog = make('dialog', { 'aria-label': 'Confirm' }, document.adoptNode(question), close);
  close.addEventListener('click', () => dialog.close());
  dialog.addEventListener('close', () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
}

async function submitted(event: SubmitEvent): Promise<void> {
  const form = event.target as HTMLFormElement;
  const submitter = event.submitter;
  const question = submitter?.dataset['confirm'] ?? form.dataset['confirm'];
  const previews = submitter?.dataset['dryRun'] ?? form.dataset['dryRun'];
  if (question === undefined && previews === undefined) return;
  event.preventDefault();
  if (previews !== undefined) {
    try {
      await preview(form, submitter);
    } catch (error) {
      toast(error instanceof Error ? error.message.slice(0, 200) : 'That failed.', 'bad');
    }
  } else if (await ask(question ?? '')) {
    // Sent as if nothing had come between, with the button that was pressed, and without asking again.
    const asked = [form, submitter].flatMap((each) => (each?.dataset['confirm'] === undefined ? [] : [each]));
    for (const each of asked) delete each.dataset['confirm'];
    form.requestSubmit(submitter);
  }
}

async function copy(button: HTMLElement): Promise<void> {
  try {
    await navigator.clipboard.writeText(button.dataset['copy'] ?? '');
    toast('Copied.', 'good');
  } catch {
    toast('The browser did not allow copying.', 'bad');
  }
}

/** Chooses or drops every row of the table that the box stands in. */
function chooseAll(box: HTMLInputElement): void {
  for (const each of box.closest('table')?.querySelectorAll<HTMLInputElement>('tbody input[type="checkbox"]') ?? []) each.checked = box.checked;
}

/** Shows what could do nothing without a script: the buttons that copy, the boxes that choose all. */
export function showHelp(): void {
  for (const each of [...elements('copy'), ...elements('choose-all')]) each.hidden = false;
}

/** Listens once, for the forms and buttons of now and later. */
export function listenForForms(): void {
  document.addEventListener('submit', (event) => void submitted(event));
  document.addEventListener('click', (event) => {
    const button = (event.target as Element).closest<HTMLElement>('[data-copy]');
    if (button) void copy(button);
  });
  document.addEventListener('change', (event) => {
    if (event.target instanceof HTMLInputElement && event.target.matches('[data-choose-all]')) chooseAll(event.target);
  });
}
