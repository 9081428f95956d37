// Brings a page to life: each part looks for the elements that are its own, and does nothing where there are none.
import { fillBar, sayResynced } from './bar';
import { followBulk } from './bulk';
import { countsChanged, followCounts } from './counts';
import { followPage } from './events';
import { listenForForms, showHelp } from './forms';
import { elements } from './page';
import { listenForPalette } from './palette';
import { onRefreshed, outdated } from './regions';
import { showEvent } from './rows';
import { followTimes, showTimes } from './times';
import 'uplot/dist/uPlot.min.css';

fillBar();
followTimes();
listenForPalette();
listenForForms();
showHelp();
followCounts();
followBulk();
followPage(
  (event) => {
    showEvent(event);
    if (event.__typename === 'JobTransition') countsChanged();
  },
  () => {
    outdated();
    countsChanged();
    sayResynced();
  },
);
onRefreshed(() => {
  showTimes();
  showHelp();
});
// Drawing is for pages that draw.
if (elements('chart').length > 0) void import('./charts').then(({ drawCharts }) => drawCharts());
if (elements('run').length > 0) void import('./run').then(({ drawRuns }) => drawRuns());
if (elements('flow').length > 0) void import('./flow').then(({ drawFlows }) => drawFlows());
