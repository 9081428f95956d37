// Sets the theme that was chosen before anything is painted; without a choice it is the system's.
try {
  const theme = localStorage.getItem('switchtower:theme');
  if (theme === 'light' || theme === 'dark') document.documentElement.dataset['theme'] = theme;
} catch {
  // Storage is turned off: the system's theme it is.
}
