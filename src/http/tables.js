// Elements and tables, filled in place: what has not changed is not touched, so that a selection, the focus and what was opened
// stay while the page updates itself.
//
// All text comes in through textContent and setAttribute; nothing here reads HTML.

/** Sets the text of an element, if it is another one. */
export const put = (element, text) => {
  if (element.textContent !== text) element.textContent = text;
};

/** An element with a class and a text. */
export const make = (name, className = '', text = '') => {
  const element = document.createElement(name);
  if (className) element.className = className;
  if (text) element.textContent = text;
  return element;
};

/** As many children as there are items, each made once, and updated each time. */
export const each = (parent, items, create, update) => {
  while (parent.children.length > items.length) parent.lastElementChild.remove();
  items.forEach((item, i) => update(parent.children[i] ?? parent.appendChild(create()), item));
};

/**
 * A table with these columns: `{ title, text(item), kind }`. The kind is the class of its cells: `number`, `foreign`, `code`.
 *
 * On a phone each row becomes a block, and each cell names its column; a table that is laid out like that is one for a screen
 * reader only where the roles say so.
 */
export class Table {
  constructor(table, caption, columns) {
    this.table = table;
    this.columns = columns;
    table.setAttribute('role', 'table');
    table.append(make('caption', 'unseen', caption));
    const head = table.appendChild(make('thead'));
    head.setAttribute('role', 'rowgroup');
    const row = head.appendChild(make('tr'));
    row.setAttribute('role', 'row');
    for (const column of columns) {
      const cell = row.appendChild(make('th', column.kind, column.title));
      cell.setAttribute('scope', 'col');
      cell.setAttribute('role', 'columnheader');
    }
    this.body = table.appendChild(make('tbody'));
    this.body.setAttribute('role', 'rowgroup');
  }

  /** Shows these items, and nothing at all where there are none. `mark(item)` is the row's `data-mark`. */
  fill(items, mark = () => '') {
    this.table.hidden = items.length === 0;
    each(this.body, items, () => this.row(), (row, item) => {
      row.dataset.mark = mark(item);
      this.columns.forEach((column, i) => put(row.children[i].firstElementChild, column.text(item)));
    });
  }

  row() {
    const row = make('tr');
    row.setAttribute('role', 'row');
    for (const column of this.columns) {
      const cell = row.appendChild(make('td', column.kind));
      cell.setAttribute('role', 'cell');
      cell.dataset.title = column.title;
      cell.append(make('span'));
    }
    return row;
  }
}

/** A term and its value in a `<dl>`, with a note below. */
export const terms = (list, items) =>
  each(
    list,
    items,
    () => {
      const group = make('div');
      group.append(make('dt'), make('dd', 'value'), make('dd', 'note'));
      return group;
    },
    (group, [term, value, note = '', level = '']) => {
      put(group.children[0], term);
      put(group.children[1], value);
      put(group.children[2], note);
      group.children[2].hidden = note === '';
      group.dataset.level = level;
    },
  );
